"""Every tile computes its layer; the fastest is found, and kept on disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="needs triton, which there is for Linux on x86-64")

from triton.runtime.errors import OutOfResources, PTXASError

from model.config import Config, StreamConfig
from model.engine.outputs import to_cpu
from model.engine.paths import Paths
from model.fused.cuda import packed_spikes
from model.fused.cuda.network import CUDANetwork
from model.fused.cuda.tile_cache import TileCache
from model.fused.cuda.tile_measurement import (
    Timer,
    Work,
    measure_tiles,
    random_layer,
    wall_timer,
)
from model.fused.cuda.tiles import (
    LayerShape,
    Measurement,
    Takes,
    Tile,
    Tiles,
    by_importance,
    candidates,
    rule,
)
from tests.model.fused.cpu.test_network import assert_same, plain
from tests.model.fused.cuda.test_network import DEVICE, case
from tests.model.networks import lively, noise
from tests.model.test_cuda_error import cuda_error

pytestmark = pytest.mark.slow

SHAPE = LayerShape(1, 2, 3, 5, 17, 9, 3, "spikes")


@given(
    takes=st.sampled_from(["spikes", "half", "held", "values"]),
    steps=st.sampled_from([1, 3, 9]),
    channels=st.sampled_from([1, 3, 40]),
    filters=st.sampled_from([1, 17, 40]),
    taps=st.sampled_from([1, 9]),
    size=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5)),
    added=st.booleans(),
    flat=st.booleans(),
    block_t=st.sampled_from([1, 2, 16]),
    block_k=st.sampled_from([16, 32, 128]),
)
@settings(max_examples=6)
def test_every_tile_gives_the_spikes_of_the_rules_tile(
    takes: Takes, steps: int, channels: int, filters: int, taps: int, size: tuple[int, int, int],
    added: bool, flat: bool, block_t: int, block_k: int,
) -> None:  # fmt: skip
    """Also where steps, pixels, channels and filters are no multiples of the blocks."""
    shape = LayerShape(*size, channels, filters, taps, steps, takes)
    shape = replace(shape, added=added and shape.is_spikes)
    x, weights, one = random_layer(shape, DEVICE)
    if takes == "held" or steps == 1:  # no tile takes more steps than there are inputs
        block_t = 1
    if steps <= 8:  # bytes have eight bits
        block_t = min(block_t, 8)
    expected = packed_spikes.fire(x, weights, steps, one)
    tile = Tile(16, 32, block_k, 4, block_t, flat)
    actual = packed_spikes.fire(x, weights, steps, one, tile)
    assert int((expected != actual).sum()) <= 1, "one potential may be within rounding"
    assert int((expected != 0).sum()) > 0 or expected.numel() < 20


@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    patch=st.sampled_from([(4, 4), (4, 8), (8, 4), (8, 8), (2, 16)]),
    filters=st.sampled_from([1, 17]),
    takes=st.sampled_from(["spikes", "held"]),
    flat=st.booleans(),
    block_t=st.sampled_from([1, 4]),
    steps=st.sampled_from([3, 9]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=5)
def test_a_patch_is_pooled_as_the_whole_picture(
    height: int, width: int, patch: tuple[int, int], filters: int, takes: Takes, flat: bool,
    block_t: int, steps: int, seed: int,
) -> None:  # fmt: skip
    """Patches overlap, go beyond the picture, or hold its whole height or width."""
    shape = LayerShape(2, height, width, 3, filters, 9, steps, takes, pooled=True)
    x, weights, _ = random_layer(shape, DEVICE)
    patch_h, patch_w = patch if patch[0] > 2 or height <= 2 else (8, 8)
    block_t = 1 if takes == "held" else block_t
    tile = Tile(patch_h * patch_w, 16, 16, 4, block_t, flat, patch_w=patch_w)
    expected = packed_spikes.pool(packed_spikes.fire(x, weights, steps))
    actual = packed_spikes.fire(x, weights, steps, None, tile, pooled=True)
    assert expected.shape == actual.shape
    assert int((expected != actual).sum()) <= 1, "one potential may be within rounding"
    unpooled = replace(tile, patch_w=0)
    assert torch.equal(packed_spikes.fire(x, weights, steps, None, unpooled, pooled=True), actual)


def test_only_a_stage_that_is_pooled_has_tiles_that_pool() -> None:
    shape = LayerShape(1, 32, 32, 16, 32, 9, 4, "spikes", pooled=True)
    patches = [tile for tile in candidates(shape) if tile.patch_w]
    assert {(tile.block_m // tile.patch_w, tile.patch_w) for tile in patches} == {
        (16, 16), (8, 16), (8, 8)
    }  # fmt: skip
    assert not any(tile.patch_w for tile in candidates(replace(shape, pooled=False)))
    assert not rule(shape).patch_w
    assert patches[0].patches(32, 32) == (3, 3), "of 16 pooled pixels a patch has 7"
    assert patches[0].patches(16, 5) == (1, 1)


@pytest.mark.parametrize("taps", [1, 9])
@pytest.mark.parametrize("takes", ["spikes", "half", "held", "values"])
def test_candidates_are_powers_of_two_with_todays_choice_among_them(
    takes: Takes, taps: int
) -> None:
    for batch, channels, filters, steps in ((1, 3, 8, 4), (32, 256, 256, 16), (1, 70, 1024, 3)):
        shape = LayerShape(batch, 16, 16, channels, filters, taps, steps, takes)
        tiles = candidates(shape)
        assert tiles[0] == rule(shape)
        assert len(set(tiles)) == len(tiles) > 1
        assert {tile.block_k for tile in tiles if not tile.flat} == {
            min(depth, max(16, 1 << (channels - 1).bit_length()))
            for depth in ((32, 64, 128) if shape.is_spikes else (32, 64))
        }
        for tile in tiles:
            assert all(x & (x - 1) == 0 for x in (tile.block_m, tile.block_n, tile.block_t))
            assert tile.block_t <= 1 << (steps - 1).bit_length()
            assert tile.block_t == 1 or takes != "held"


def test_the_first_layer_is_one_product_over_taps_and_channels() -> None:
    for channels in (1, 2, 3):
        tile = rule(LayerShape(1, 128, 128, channels, 32, 9, 4, "held"))
        assert tile.flat
        assert tile.block_k >= 9 * channels
    assert not rule(LayerShape(1, 128, 128, 33, 32, 9, 4, "held")).flat


class Clock:
    """Measures real layers, but lets `fast` appear fastest of all."""

    def __init__(self, fast: Callable[[Tile], bool]) -> None:
        self._fast = fast
        self.tiles: list[Tile] = []

    def __call__(self, run: Work) -> Callable[[], float]:
        run()
        (tile,) = run.args  # type: ignore[attr-defined]
        self.tiles.append(tile)
        return lambda: 1.0 if self._fast(tile) else 2.0


def measure(clock: Timer, count: int, known: dict[LayerShape, Measurement]) -> Measurement | None:
    """Measure at most `count` candidates of SHAPE."""
    rounds = iter(range(count))
    measured = measure_tiles(
        [SHAPE], known, DEVICE, clock, threading.Lock(), lambda: next(rounds, None) is None
    )
    return measured.get(SHAPE)


def test_a_faster_tile_replaces_the_rules_and_a_later_start_continues() -> None:
    wanted = candidates(SHAPE)[2]
    clock = Clock(lambda tile: tile == wanted)
    first = measure(clock, 1, {})
    assert first == Measurement(rule(SHAPE), 2)
    second = measure(clock, 2, {SHAPE: first})
    assert second == Measurement(wanted, 4), "no faster one replaces it"
    assert clock.tiles == [
        rule(SHAPE), candidates(SHAPE)[1], rule(SHAPE), wanted, wanted, candidates(SHAPE)[3]
    ]  # fmt: skip
    tiles = Tiles({SHAPE: second})
    assert tiles.tile(SHAPE) == wanted
    assert tiles.unfinished == [SHAPE]
    complete = Measurement(wanted, len(candidates(SHAPE)))
    assert measure(clock, 9, {SHAPE: complete}) is None
    tiles.measured[SHAPE] = complete
    assert tiles.unfinished == []
    other = replace(SHAPE, batch=2)
    assert tiles.tile(other) == rule(other)
    assert tiles.unfinished == [other]


def test_without_time_nothing_is_measured() -> None:
    assert measure(wall_timer, 0, {}) is None


def test_a_tile_that_changes_spikes_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = candidates(SHAPE)[1]
    fire = packed_spikes.fire

    def faulty(*args: object, pooled: bool) -> torch.Tensor:
        fired = fire(*args, pooled=pooled)  # type: ignore[arg-type]
        return fired + 1 if args[-1] == wrong else fired

    monkeypatch.setattr(packed_spikes, "fire", faulty)
    with caplog.at_level(logging.WARNING, "scmrl.engine"):
        measured = measure(Clock(lambda tile: tile == wrong), 1, {})
    assert measured == Measurement(rule(SHAPE), 2)
    assert "changes spikes" in caplog.text


def failing_at(tile: Tile, error: Exception) -> Timer:
    """A clock for which one tile fails and no tile is faster than another."""

    def clock(run: Work) -> Callable[[], float]:
        if run.args[-1] == tile:  # type: ignore[attr-defined]
            raise error
        return lambda: 1.0

    return clock


@pytest.mark.parametrize(
    "error",
    [
        OutOfResources(300_000, 232_448, "shared memory"),
        PTXASError("too many registers"),
        RuntimeError("PassManager::run failed"),
        IndexError("of a compiler"),
    ],
)
def test_a_tile_that_cannot_run_counts_as_tried(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    measured = measure(failing_at(candidates(SHAPE)[1], error), 2, {})
    assert measured == Measurement(rule(SHAPE), 3)
    assert "is not used" in caplog.text


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("of a card"), MemoryError(), cuda_error(2)]
)
def test_a_lack_of_memory_ends_the_measurement_before_the_tile(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    measured = measure(failing_at(candidates(SHAPE)[2], error), 9, {})
    assert measured == Measurement(rule(SHAPE), 2)
    assert measure(failing_at(candidates(SHAPE)[1], error), 9, {}) is None
    assert "too little memory" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        cuda_error(700),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        OSError("no space left on device"),
    ],
)
def test_an_error_that_is_not_of_the_tile_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        measure(failing_at(candidates(SHAPE)[2], error), 9, {})


def test_measured_tiles_are_kept_on_disk_for_this_card_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = {SHAPE: Measurement(candidates(SHAPE)[2], 5)}
    other = {replace(SHAPE, batch=2): Measurement(rule(SHAPE), 1)}
    cache = TileCache(DEVICE, tmp_path / "new")
    assert cache.read() == {}
    cache.write(tiles)
    cache.write(other)
    assert TileCache(DEVICE, tmp_path / "new").read() == tiles | other
    assert [path.name for path in (tmp_path / "new").iterdir()] == [cache.path.name]
    monkeypatch.setattr("triton.__version__", "0")
    assert TileCache(DEVICE, tmp_path / "new").path != cache.path


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:50],
        lambda content: b"\xff\x00",
        lambda content: b"[]",
        lambda content: b"[" * 100_000,
        lambda content: content.replace(b'"block_m": 16', b'"block_m": 15'),
        lambda content: content.replace(b'"block_m": 16', b'"block_m": "x"'),
        lambda content: content.replace(b'"batch": 1', b'"batch": null'),
        lambda content: content.replace(b'"steps"', b'"stops"'),
        lambda content: content.replace(b'"tried": ', b'"tried": -'),
        lambda content: content.replace(b'"tried": ', b'"tried": 0.'),
        lambda content: content.replace(b'"torch": "', b'"torch": "9'),
        lambda content: content + b" " * 2**23,
    ],
)
def test_a_damaged_file_is_ignored_with_a_log_line_and_replaced(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tile = next(tile for tile in candidates(SHAPE) if tile.block_m == 16)
    measured = Measurement(tile, len(candidates(SHAPE)))
    cache = TileCache(DEVICE, tmp_path)
    cache.write({SHAPE: measured})
    content = cache.path.read_bytes()
    assert damage(content) != content
    cache.path.write_bytes(damage(content))
    assert cache.read() == {}
    assert "are ignored" in caplog.text
    cache.write({SHAPE: measured})
    assert cache.read() == {SHAPE: measured}


def test_an_unwritable_folder_is_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    TileCache(DEVICE, tmp_path / "file").write({SHAPE: Measurement(rule(SHAPE), 1)})
    assert "cannot be cached" in caplog.text


def test_a_run_may_ask_for_a_tile_while_the_unfinished_are_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = Tiles()
    listed.tile(SHAPE)

    def candidates_while_a_run_begins(shape: LayerShape) -> list[Tile]:
        listed.tile(replace(shape, batch=shape.batch + 1))
        return candidates(shape)

    monkeypatch.setattr("model.fused.cuda.tiles.candidates", candidates_while_a_run_begins)
    assert listed.unfinished == [SHAPE]
    assert listed.seen == (SHAPE, replace(SHAPE, batch=2))


class Others(dict[LayerShape, Measurement]):
    """A tile of each layer that is as different from the rule's as can be: it pools where it can,
    and has all steps in one product."""

    def get(self, shape: LayerShape, default: object = None) -> Measurement:  # type: ignore[override]
        def difference(tile: Tile) -> tuple[bool, bool, int]:
            return tile.patch_w > 0, tile.block_t > 1, -tile.block_m

        return Measurement(max(candidates(shape), key=difference), 1)


def test_a_network_of_other_tiles_gives_the_plain_outputs() -> None:
    network, inputs, steps = case("concat", batch=1)
    expected = plain(network, inputs, steps)
    tiles = Tiles()
    tiles.measured = Others()
    moved = {name: x.to(DEVICE) for name, x in inputs.items()}
    with torch.inference_mode():
        output = CUDANetwork(network.to(DEVICE), tiles=tiles)(moved, steps, True)
    assert_same(to_cpu(output), expected)
    used = [tiles.tile(shape) for shape in tiles.seen]
    assert any(tile.patch_w for tile in used)
    assert any(tile.block_t > 1 for tile in used)


def test_an_engine_measures_the_layers_that_ran_and_the_next_one_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    stream = StreamConfig(channels=1, size=(4, 4), splitting="shallow")
    config = Config(streams={"a": stream}, classes=3, embed_dim=8, heads=2)
    network = lively(config).to(DEVICE)
    paths = Paths(network, 1, threading.Lock())
    assert not paths.tune(lambda: pytest.fail("there is no fused path yet"))
    tiles = paths.cuda_tiles()
    frame = {name: x.to(DEVICE) for name, x in noise(network.config, steps=1, batch=1).items()}
    with torch.inference_mode():
        expected = CUDANetwork(network, tiles=tiles)(frame, 2, False).logits
    shapes = tiles.unfinished
    assert {shape.takes for shape in shapes} == {"held", "spikes", "values"}
    rounds = iter(range(3))
    paths.tune(lambda: next(rounds, None) is None)
    assert set(tiles.measured) == set(by_importance(shapes)[:3])
    assert {each.tried for each in tiles.measured.values()} == {2}
    assert set(tiles.unfinished) >= set(shapes) - set(tiles.measured)
    successor = Paths(network, 1, threading.Lock())
    assert successor.cuda_tiles().measured == tiles.measured
    with torch.inference_mode():
        logits = CUDANetwork(network, tiles=successor.cuda_tiles())(frame, 2, False).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
