"""Parity of a fused path and the plain network: spikes that differ, by layer and at the tokens.

A membrane potential within rounding of its threshold may fire on one path and not on the other, and
the layers after it then differ as well. So spikes are counted twice: at each layer with the plain
path's input, which shows the effect of the fused path's arithmetic alone; and at the tokens, with
the fused path's own spikes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from torch import Tensor

from model.engine.plain import inference_context
from model.network import SCMRL, Output
from model.network.patch import PatchSplitting


@dataclass(frozen=True)
class Parity:
    """A fused path compared with the plain network over `samples` inputs.

    `flips` of `spikes` differ at layers with the plain path's input; `token_flips` of `tokens`
    values differ at the end of the patch splittings. `classes` predictions differ. `difference` is
    the largest difference of a probability.
    """

    samples: int = 0
    spikes: int = 0
    flips: int = 0
    tokens: int = 0
    token_flips: int = 0
    classes: int = 0
    difference: float = 0.0

    def __add__(self, other: Parity) -> Parity:
        return Parity(
            self.samples + other.samples,
            self.spikes + other.spikes,
            self.flips + other.flips,
            self.tokens + other.tokens,
            self.token_flips + other.token_flips,
            self.classes + other.classes,
            max(self.difference, other.difference),
        )


class ParityLayers(Protocol):
    """A fused network, layer by layer, in the plain network's layout: spikes [T, B, C, H, W] and
    tokens [T, B, C, N]. B is 1 except for `output`."""

    def output(self, frames: Mapping[str, Tensor], steps: int) -> Output:
        """Return the network's output for frames [T or 1, B, C, H, W], B of any size."""

    def stage(self, name: str, index: int, x: Tensor, steps: int) -> Tensor:
        """Return the pooled spikes of a stage of a stream's patch splitting."""

    def position_stage(self, name: str, x: Tensor, steps: int) -> Tensor:
        """Return the spikes of the patch splitting's position stage."""

    def tokens(self, name: str, frames: Tensor, steps: int) -> Tensor:
        """Return the tokens of the whole patch splitting."""

    def residual(self, target: str, source: str, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the residual of a source in a target."""

    def mlp(self, name: str, x: Tensor) -> Tensor:
        """Return the MLP's output: its spikes added to x."""


def measure_parity(
    plain: SCMRL, fused: ParityLayers, batches: Iterable[Mapping[str, Tensor]], steps: int
) -> Parity:
    """Compare a network of two or more streams, in eval mode, with its fused path.

    `batches`: frames [T or 1, B, C, H, W] by stream, on the device of the networks.
    """
    total = Parity()
    with inference_context(plain.head.bias.device):
        for frames in batches:
            total += _compare_outputs(plain, fused, frames, steps)
            for sample in range(next(iter(frames.values())).shape[1]):
                single = {name: x[:, sample : sample + 1] for name, x in frames.items()}
                total += _compare_spikes(plain, fused, single, steps)
    return total


def _compare_outputs(
    plain: SCMRL, fused: ParityLayers, frames: Mapping[str, Tensor], steps: int
) -> Parity:
    repeated = {name: x.expand(steps, *x.shape[1:]) for name, x in frames.items()}
    expected = plain(repeated).logits.softmax(1)
    actual = fused.output(frames, steps).logits.softmax(1)
    return Parity(
        samples=len(expected),
        classes=int((expected.argmax(1) != actual.argmax(1)).sum()),
        difference=float((expected - actual).abs().max()),
    )


def _compare_spikes(
    plain: SCMRL, fused: ParityLayers, frames: Mapping[str, Tensor], steps: int
) -> Parity:
    """Compare the spikes of one sample, frames [T or 1, 1, C, H, W]."""
    total = Parity()
    tokens: dict[str, Tensor] = {}  # [T, 1, D, N]
    for name, sample in frames.items():
        patch = cast(PatchSplitting, plain.patch[name])
        x = sample
        for index, stage in enumerate(patch.stages):
            fused_spikes = fused.stage(name, index, x, steps)
            spikes = stage(x.expand(steps, *x.shape[1:]))
            x = patch.pool(spikes.flatten(0, 1)).unflatten(0, (steps, -1))
            total += _compare(x, fused_spikes)
        position = patch.position(x)
        total += _compare(position, fused.position_stage(name, x, steps))
        tokens[name] = (x + position).flatten(3)
        flips = int((fused.tokens(name, sample, steps) != tokens[name]).sum())
        total += Parity(tokens=tokens[name].numel(), token_flips=flips)
    return total + _compare_fusion(plain, fused, tokens)


def _compare_fusion(plain: SCMRL, fused: ParityLayers, tokens: Mapping[str, Tensor]) -> Parity:
    """Compare the residuals and MLPs of one sample, from the plain path's tokens [T, 1, D, N]."""
    total = Parity()
    for target, x in tokens.items():
        for source, residual in plain.residual[target].items():  # type: ignore[operator]
            values, _ = residual(x, tokens[source], False)
            total += _compare(values, fused.residual(target, source, tokens))
            x = x + plain.config.alpha * values
        total += _compare(plain.mlp[target](x) - x, fused.mlp(target, x) - x)
    return total


def _compare(expected: Tensor, actual: Tensor) -> Parity:
    # Sums and differences of small integers and halves are exact; the tolerance ignores rounding.
    return Parity(spikes=expected.numel(), flips=int(((expected - actual).abs() > 0.25).sum()))
