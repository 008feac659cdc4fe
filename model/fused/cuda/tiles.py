"""The tile of a layer: how `fire` divides it into programs, and a program into products.

A tile changes a layer's time, and the order of its sums with BLOCK_K and `flat`: two tiles may give
another spike where a potential is within rounding of its threshold. The best one depends on the
layer, the batch and the card, so it is measured (model/fused/cuda/tile_measurement.py); without a
measurement it follows a rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

#: What a layer takes: packed spikes, with two halves of each weight or one; or float32 values, with
#: one step for all T ("held") or T of them.
Takes = Literal["spikes", "half", "held", "values"]

#: Most channels of spikes and of values that the rule multiplies at a time.
_SPIKES_BLOCK_K, _VALUES_BLOCK_K = 64, 32
#: Most pairs of a tap and a channel that the rule takes as one product: on an H200 this took 7 us
#: instead of 15 for 3 channels of one sample, and 54 instead of 260 for 32 samples.
_FLAT_K = 32
#: Outputs of a layer (pixels x filters) from which on large blocks fill a GPU.
_LARGE_LAYER = 2**22
#: Smallest side of a product on tensor cores.
_MIN_SIDE = 16
#: Most rows (pixels x steps) of a program's product.
_MAX_ROWS = 256
#: Most sums that a thread holds: it has 255 registers.
_MAX_SUMS = 64
#: Threads in a warp.
_WARP = 32


@dataclass(frozen=True)
class LayerShape:
    """The properties of a layer of a batch that its time depends on.

    `height` and `width` of a sample's pixels; a token is a pixel of a row. `taps`: 1 or 9. `added`:
    its input is the sum of two spikes. `pooled`: a max-pool follows.
    """

    batch: int
    height: int
    width: int
    channels: int
    filters: int
    taps: int
    steps: int
    takes: Takes
    added: bool = False
    pooled: bool = False

    @property
    def pixels(self) -> int:
        return self.batch * self.height * self.width

    @property
    def is_spikes(self) -> bool:
        """Whether it takes packed spikes."""
        return self.takes in ("spikes", "half")


@dataclass(frozen=True)
class Tile:
    """Constants of `fire` (model/fused/cuda/triton_kernels.py); blocks are powers of 2.

    A program computes block_m pixels x block_n filters, from products of block_t steps and block_k
    channels, or with `flat` block_k pairs of a tap and a channel. `stages`: blocks that are loaded
    ahead. With `patch_w` the pixels are a patch of that width, which the kernel also pools.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    block_t: int = 1
    flat: bool = False
    stages: int = 3
    patch_w: int = 0

    def patches(self, height: int, width: int) -> tuple[int, int]:
        """Return how many patches cover a picture's height and its width: they overlap by two
        pixels, unless one holds the whole of it."""
        patch_h = self.block_m // self.patch_w
        return _patches(height, patch_h), _patches(width, self.patch_w)


@dataclass(frozen=True)
class Measurement:
    """The fastest tile of the first `tried` candidates of a layer shape."""

    tile: Tile
    tried: int


class Tiles:
    """The tile of each layer shape: that of `measured`, else the rule's.

    `seen` are the shapes that were asked for, in their order; `unfinished` those of them of which
    not all candidates were measured.
    """

    def __init__(self, measured: Mapping[LayerShape, Measurement] | None = None) -> None:
        self.measured = dict(measured or {})
        self._seen: dict[LayerShape, None] = {}

    @property
    def seen(self) -> tuple[LayerShape, ...]:
        return tuple(self._seen)

    @property
    def unfinished(self) -> list[LayerShape]:
        def tried(shape: LayerShape) -> int:
            return self.measured[shape].tried if shape in self.measured else 0

        # Of `seen`, a copy: runs ask for tiles meanwhile.
        return [shape for shape in self.seen if tried(shape) < len(candidates(shape))]

    def tile(self, shape: LayerShape) -> Tile:
        self._seen[shape] = None
        measured = self.measured.get(shape)
        return rule(shape) if measured is None else measured.tile


def rule(shape: LayerShape) -> Tile:
    """Return the tile of a layer that was not measured: small blocks for small layers.

    At least 64 pixels, so that Hopper's cards sum by the same instructions in every program. A
    layer's block_k does not depend on the batch, so neither does the order of its sums.
    """
    block_n = min(64, _fitting(shape.filters))
    flat = not shape.is_spikes and _flat_k(shape) <= _FLAT_K
    max_block_k = _SPIKES_BLOCK_K if shape.is_spikes else _VALUES_BLOCK_K
    block_k = _flat_k(shape) if flat else min(max_block_k, _fitting(shape.channels))
    if not shape.is_spikes or shape.pixels * shape.filters < _LARGE_LAYER:
        return Tile(64, min(32, block_n), block_k, warps=4, flat=flat)
    return Tile(128, block_n, block_k, warps=8)


def _looped_rule(shape: LayerShape) -> Tile:
    """Return the rule's tile with a product for each tap."""
    max_block_k = _SPIKES_BLOCK_K if shape.is_spikes else _VALUES_BLOCK_K
    block_k = min(max_block_k, _fitting(shape.channels))
    return replace(rule(shape), flat=False, block_k=block_k)


def candidates(shape: LayerShape) -> list[Tile]:
    """Return the tiles to measure for a layer: the rule's first, then the most promising ones."""
    tiles = [rule(shape), _looped_rule(shape)]
    tiles += [tile for tile in _flat_tiles(shape) if _fits(tile)]
    tiles += [tile for tile in _pooled_tiles(shape) if _fits(tile)]
    tiles += [tile for tile in _looped_tiles(shape) if _fits(tile)]
    return list(dict.fromkeys(tiles))


def by_importance(shapes: Sequence[LayerShape]) -> list[LayerShape]:
    """Return shapes in the order to measure them: batches of one first, then the largest, and in a
    batch the layers with most products."""

    def key(shape: LayerShape) -> tuple[bool, int, int]:
        products = shape.pixels * shape.channels * shape.filters * shape.taps
        return shape.batch != 1, -shape.batch, -products

    return sorted(shapes, key=key)


def _looped_tiles(shape: LayerShape) -> Iterator[Tile]:
    """Yield tiles with a product for each tap: of all steps, so that weights are loaded once for
    them, or of one. Few pixels take small blocks and many channels at a time."""
    is_large = shape.pixels * shape.filters >= _LARGE_LAYER
    steps = 1 if shape.takes == "held" else _next_power_of_2(shape.steps)
    joint = [(16, 32, 4), (32, 32, 4), (16, 64, 4), (32, 64, 4), (64, 64, 8)]
    single = [(64, 32, 4), (64, 64, 4), (128, 64, 4), (128, 64, 8), (128, 128, 8)]
    depths: tuple[int, ...] = (64, 32, 128) if is_large else (128, 64, 32)
    if not shape.is_spikes:  # each product is three, of parts that take registers as well
        depths = (32, 64)
    for depth in depths:
        block_k = min(depth, _fitting(shape.channels))
        for block_m, most_n, warps in reversed(joint) if is_large else joint:
            block_n = min(most_n, _fitting(shape.filters))
            if steps > 1 and (shape.is_spikes or depth == depths[0]):
                yield Tile(block_m, block_n, block_k, warps, min(steps, _MAX_ROWS // block_m))
        for block_m, most_n, warps in reversed(single) if is_large else single:
            yield Tile(block_m, min(most_n, _fitting(shape.filters)), block_k, warps)


def _flat_tiles(shape: LayerShape) -> Iterator[Tile]:
    """Yield tiles that take the taps and channels of a pixel as one row, of few channels: more
    fill a product by themselves."""
    if shape.taps == 1 or shape.channels >= _MIN_SIDE:
        return
    block_k = min(_FLAT_K, _flat_k(shape))
    block_n = min(32, _fitting(shape.filters))
    for block_m, warps in ((128, 4), (64, 4), (32, 4), (128, 8), (256, 8)):
        yield Tile(block_m, block_n, block_k, warps, flat=True)


def _fits(tile: Tile) -> bool:
    """Return whether a tile's sums fit the registers."""
    return tile.block_t * tile.block_m * tile.block_n <= _MAX_SUMS * tile.warps * _WARP


def _pooled_tiles(shape: LayerShape) -> Iterator[Tile]:
    """Yield tiles whose kernel pools as well. Large patches compute little twice."""
    if not shape.pooled:
        return
    flat = shape.channels < _MIN_SIDE
    block_k = min(_FLAT_K, _flat_k(shape)) if flat else min(64, _fitting(shape.channels))
    block_n = min(32, _fitting(shape.filters))
    steps = 1 if shape.takes == "held" else _next_power_of_2(shape.steps)
    for patch_h, patch_w, warps in ((16, 16, 8), (8, 16, 4), (8, 8, 4)):
        block_m = patch_h * patch_w
        yield Tile(block_m, block_n, block_k, warps, flat=flat, patch_w=patch_w)
        joint = min(steps, _MAX_ROWS // block_m)
        if joint > 1 and shape.is_spikes:
            yield Tile(block_m, block_n, block_k, 8, joint, flat, patch_w=patch_w)


def _patches(length: int, patch: int) -> int:
    """Return how many patches of a length cover the pooled pixels of a row or column."""
    return 1 if patch >= length else -(-((length + 1) // 2) // (patch // 2 - 1))


def _flat_k(shape: LayerShape) -> int:
    return _fitting(shape.taps * shape.channels)


def _fitting(count: int) -> int:
    """Return the smallest side of a product's block that holds `count`."""
    return max(_MIN_SIDE, _next_power_of_2(count))


def _next_power_of_2(count: int) -> int:
    return 1 << (count - 1).bit_length()
