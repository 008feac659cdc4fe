"""Whether the fused network is the plain one: spikes that differ, layer by layer and at the end.

A membrane potential that lies within rounding of its threshold may fire on one path and not on
the other, and what it feeds then differs as well. So spikes are counted twice: at each layer when
both paths are given the plain one's spikes, which is what a path's arithmetic flips; and at the
tokens when each path is given its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from model.engine.engine import computing
from model.fused.cpu.network import FusedNetwork
from model.network import SCMRL, Output
from model.network.patch import PatchSplitting


@dataclass(frozen=True)
class Agreement:
    """The fused path against the plain one over `samples` inputs.

    `flips` of `spikes` differ at the layers, each given the plain path's input; `token_flips`
    of `tokens` values differ at the end of the patch splittings. `classes` answers differ, and
    no probability by more than `difference`.
    """

    samples: int = 0
    spikes: int = 0
    flips: int = 0
    tokens: int = 0
    token_flips: int = 0
    classes: int = 0
    difference: float = 0.0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.samples + other.samples,
            self.spikes + other.spikes,
            self.flips + other.flips,
            self.tokens + other.tokens,
            self.token_flips + other.token_flips,
            self.classes + other.classes,
            max(self.difference, other.difference),
        )


class Layers(Protocol):
    """A fused network, layer by layer, in the plain one's layout: spikes [T, B, C, H, W] and tokens
    [T, B, C, N], for one sample where nothing else is said."""

    def output(self, frames: Mapping[str, Tensor], steps: int) -> Output:
        """Of frames [T or 1, B, C, H, W] of any number of samples."""

    def stage(self, name: str, index: int, x: Tensor, steps: int) -> Tensor:
        """Pooled spikes of a stage of a stream's patch splitting, of frames or spikes."""

    def position(self, name: str, x: Tensor, steps: int) -> Tensor:
        """Spikes of its last stage."""

    def tokens(self, name: str, frames: Tensor, steps: int) -> Tensor:
        """All of its patch splitting."""

    def residual(self, target: str, source: str, tokens: Mapping[str, Tensor]) -> Tensor:
        """What the source adds to the target."""

    def mlp(self, name: str, x: Tensor) -> Tensor:
        """The MLP's spikes added to tokens."""


class FusedLayers:
    """The fused network of CPUs."""

    def __init__(self, fused: FusedNetwork) -> None:
        self._fused = fused

    def output(self, frames: Mapping[str, Tensor], steps: int) -> Output:
        return self._fused(frames, steps, False)

    def stage(self, name: str, index: int, x: Tensor, steps: int) -> Tensor:
        own = self._fused.patch[name].stages[index]
        return own(_last(x, own.takes), steps)[:, None]

    def position(self, name: str, x: Tensor, steps: int) -> Tensor:
        own = self._fused.patch[name].position
        return own(_last(x, own.takes), steps)[:, None]

    def tokens(self, name: str, frames: Tensor, steps: int) -> Tensor:
        return self._fused.tokens(name, frames[:, 0], steps).transpose(1, 2)[:, None]

    def residual(self, target: str, source: str, tokens: Mapping[str, Tensor]) -> Tensor:
        gave, _ = self._fused.residual[target][source](
            _rows(tokens[target]), _rows(tokens[source]), False
        )
        return gave.transpose(1, 2)[:, None]

    def mlp(self, name: str, x: Tensor) -> Tensor:
        return self._fused.mlp[name](_rows(x)).transpose(1, 2)[:, None]


def _last(x: Tensor, kind: torch.dtype) -> Tensor:
    """One sample [T, 1, C, H, W] as [T, C, H, W], channels last."""
    return x[:, 0].to(kind).contiguous(memory_format=torch.channels_last)


def _rows(tokens: Tensor) -> Tensor:
    """One sample's tokens [T, 1, C, N] as [T, N, C]."""
    return tokens[:, 0].transpose(1, 2).contiguous()


def agreement(
    plain: SCMRL, fused: Layers, batches: Iterable[Mapping[str, Tensor]], steps: int
) -> Agreement:
    """Compare a network of two or more streams to its fused path.

    `batches` of frames [T or 1, B, C, H, W] by stream, where the networks are; `plain` is in eval
    mode.
    """
    total = Agreement()
    with computing(plain.head.bias.device):
        for frames in batches:
            total += _answers(plain, fused, frames, steps)
            for sample in range(next(iter(frames.values())).shape[1]):
                one = {name: x[:, sample : sample + 1] for name, x in frames.items()}
                total += _spikes(plain, fused, one, steps)
    return total


def _answers(plain: SCMRL, fused: Layers, frames: Mapping[str, Tensor], steps: int) -> Agreement:
    repeated = {name: x.expand(steps, *x.shape[1:]) for name, x in frames.items()}
    expected = plain(repeated).logits.softmax(1)
    found = fused.output(frames, steps).logits.softmax(1)
    return Agreement(
        samples=len(expected),
        classes=int((expected.argmax(1) != found.argmax(1)).sum()),
        difference=float((expected - found).abs().max()),
    )


def _spikes(plain: SCMRL, fused: Layers, frames: Mapping[str, Tensor], steps: int) -> Agreement:
    """The spikes of one sample, [T or 1, 1, C, H, W]."""
    total = Agreement()
    tokens: dict[str, Tensor] = {}  # [T, 1, D, N]
    for name, held in frames.items():
        patch = cast(PatchSplitting, plain.patch[name])
        x = held
        for index, theirs in enumerate(patch.stages):
            found = fused.stage(name, index, x, steps)
            fired = theirs(x.expand(steps, *x.shape[1:]))
            x = patch.pool(fired.flatten(0, 1)).unflatten(0, (steps, -1))
            total += _layer(x, found)
        position = patch.position(x)
        total += _layer(position, fused.position(name, x, steps))
        tokens[name] = (x + position).flatten(3)
        differ = int((fused.tokens(name, held, steps) != tokens[name]).sum())
        total += Agreement(tokens=tokens[name].numel(), token_flips=differ)
    return total + _crossed(plain, fused, tokens)


def _crossed(plain: SCMRL, fused: Layers, tokens: Mapping[str, Tensor]) -> Agreement:
    """The residuals and MLPs of one sample, given the plain path's tokens [T, 1, D, N]."""
    total = Agreement()
    for target, x in tokens.items():
        for source, residual in plain.residual[target].items():  # type: ignore[operator]
            gave, _ = residual(x, tokens[source], False)
            total += _layer(gave, fused.residual(target, source, tokens))
            x = x + plain.config.alpha * gave
        total += _layer(plain.mlp[target](x) - x, fused.mlp(target, x) - x)
    return total


def _layer(theirs: Tensor, ours: Tensor) -> Agreement:
    # Sums and differences of small integers and halves are exact, but a rounding is no flip.
    return Agreement(spikes=theirs.numel(), flips=int(((theirs - ours).abs() > 0.25).sum()))
