"""Whether the fused network is the plain one: spikes that differ, layer by layer and at the end.

A membrane potential that lies within rounding of its threshold may fire on one path and not on
the other, and what it feeds then differs as well. So spikes are counted twice: at each layer when
both paths are given the plain one's spikes, which is what a path's arithmetic flips; and at the
tokens when each path is given its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from model.fused import FusedNetwork
from model.network import SCMRL
from model.patch import PatchSplitting


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


def agreement(
    plain: SCMRL, fused: FusedNetwork, batches: Iterable[Mapping[str, Tensor]], steps: int
) -> Agreement:
    """Compare a network of two or more streams to its fused path.

    `batches` of frames [T or 1, B, C, H, W] by stream; `plain` is in eval mode.
    """
    total = Agreement()
    with torch.inference_mode():
        for frames in batches:
            total += _answers(plain, fused, frames, steps)
            for sample in range(next(iter(frames.values())).shape[1]):
                one = {name: x[:, sample : sample + 1] for name, x in frames.items()}
                total += _spikes(plain, fused, one, steps)
    return total


def _answers(
    plain: SCMRL, fused: FusedNetwork, frames: Mapping[str, Tensor], steps: int
) -> Agreement:
    repeated = {name: x.expand(steps, *x.shape[1:]) for name, x in frames.items()}
    expected = plain(repeated).logits.softmax(1)
    found = fused(frames, steps, False).logits.softmax(1)
    return Agreement(
        samples=len(expected),
        classes=int((expected.argmax(1) != found.argmax(1)).sum()),
        difference=float((expected - found).abs().max()),
    )


def _spikes(
    plain: SCMRL, fused: FusedNetwork, frames: Mapping[str, Tensor], steps: int
) -> Agreement:
    """The spikes of one sample, [T or 1, 1, C, H, W]."""
    total = Agreement()
    tokens: dict[str, Tensor] = {}  # [T, 1, D, N]
    for name, held in frames.items():
        patch = cast(PatchSplitting, plain.patch[name])
        x, own = held, fused.patch[name]
        given = x[:, 0].contiguous(memory_format=torch.channels_last)
        for theirs, ours in zip(patch.stages, own.stages, strict=True):
            fired = theirs(x.expand(steps, *x.shape[1:]))
            x = patch.pool(fired.flatten(0, 1)).unflatten(0, (steps, -1))
            found = ours(given, steps)
            total += _layer(x[:, 0], found)
            given = x[:, 0].to(found.dtype).contiguous(memory_format=torch.channels_last)
        position = patch.position(x)
        total += _layer(position[:, 0], own.position(given, steps))
        tokens[name] = (x + position).flatten(3)
        end = fused.tokens(name, held[:, 0], steps).transpose(1, 2)  # [T, D, N]
        differ = int((end != tokens[name][:, 0]).sum())
        total += Agreement(tokens=end.numel(), token_flips=differ)
    return total + _crossed(plain, fused, tokens)


def _crossed(plain: SCMRL, fused: FusedNetwork, tokens: Mapping[str, Tensor]) -> Agreement:
    """The residuals and MLPs of one sample, given the plain path's tokens [T, 1, D, N]."""
    total = Agreement()
    rows = {name: x[:, 0].transpose(1, 2).contiguous() for name, x in tokens.items()}  # [T, N, D]
    for target, x in tokens.items():
        for source, residual in plain.residual[target].items():  # type: ignore[operator]
            gave, _ = residual(x, tokens[source], False)
            found, _ = fused.residual[target][source](rows[target], rows[source], False)
            total += _layer(gave[:, 0].transpose(1, 2), found)
            x = x + plain.config.alpha * gave
        spikes = plain.mlp[target](x) - x
        given = x[:, 0].transpose(1, 2).contiguous()
        total += _layer(spikes[:, 0].transpose(1, 2), fused.mlp[target](given) - given)
    return total


def _layer(theirs: Tensor, ours: Tensor) -> Agreement:
    # Sums and differences of small integers and halves are exact, but a rounding is no flip.
    return Agreement(spikes=theirs.numel(), flips=int(((theirs - ours).abs() > 0.25).sum()))
