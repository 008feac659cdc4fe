"""Checks of a training after each epoch, which warn where it does not learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from model.network import SCMRL
from model.network.neuron import LIF
from model.training.batch_norm import BATCH_NORMS, MIN_BATCHES

#: Epochs before which a silent layer, equal answers or a loss that does not fall mean nothing.
MIN_EPOCHS = 3
#: Share of the first epoch's loss below which a loss has fallen.
FALLEN = 0.98
#: Greatest standard deviation of a class's probability over clips that are answered alike.
ALIKE = 1e-3
#: Distance of a batch's mean from the running one, in running standard deviations, and factor
#: between their variances, for the median channel of a norm that has not settled.
MAX_SHIFT, MAX_FACTOR = 1.0, 4.0
#: Most layers that one warning names.
_MAX_NAMES = 4


class Health:
    """The checks of one training, over its epochs. `labels` are the names of the classes.

    `warnings` are those that stand after the last check.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self.losses: list[float] = []
        self._standing: dict[str, str] = {}
        self._reported: set[str] = set()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings that stand after the last epoch."""
        return tuple(self._standing.values())

    def new_warnings(self) -> list[str]:
        """Return the standing warnings of kinds that were not returned before."""
        new = {kind: text for kind, text in self._standing.items() if kind not in self._reported}
        self._reported |= new.keys()
        return list(new.values())

    def check(
        self,
        network: SCMRL,
        inputs: Mapping[str, Tensor],
        labels: Tensor,
        loss: float,
        *,
        settled: bool,
    ) -> None:
        """Check the network on held-out clips [T, B, C, H, W] by stream, after an epoch of this
        mean loss. `settled`: whether its batch norms were frozen or settled. Changes nothing."""
        self.losses.append(loss)
        rates, drifts, logits = observe(network, inputs)
        standing = {"norms": "" if settled else _unsettled(network, drifts)}
        if len(self.losses) >= MIN_EPOCHS:
            standing["silent"] = _silent(rates)
            standing["alike"] = self._alike(logits, labels)
            standing["loss"] = self._not_falling()
        self._standing = {kind: text for kind, text in standing.items() if text}

    def _alike(self, logits: Tensor, labels: Tensor) -> str:
        if len(labels.unique()) < 2:
            return ""
        probabilities = softmax(logits.float(), 1)
        answers = logits.argmax(1).unique()
        if float(probabilities.std(0).max()) < ALIKE:
            mean = ", ".join(f"{x:.2f}" for x in probabilities.mean(0)[:_MAX_NAMES].tolist())
            return (
                f"all {len(labels)} held-out clips have the same answer ({mean}, …): the network "
                "does not look at its input; train longer, or with another --learning-rate"
            )
        if len(answers) == 1:
            return (
                f"all {len(labels)} held-out clips are answered {self.labels[int(answers[0])]!r}; "
                "train longer, with more clips of the other classes, or with class weights"
            )
        return ""

    def _not_falling(self) -> str:
        latest = sum(self.losses[-2:]) / 2
        if latest <= FALLEN * self.losses[0]:
            return ""
        return (
            f"the loss has not fallen: {self.losses[0]:.3f} in the first epoch, {latest:.3f} now; "
            "try another --learning-rate, --init-from a checkpoint, or look at the labels"
        )


@torch.inference_mode()
def observe(
    network: SCMRL, inputs: Mapping[str, Tensor]
) -> tuple[dict[str, float], dict[str, tuple[float, float]], Tensor]:
    """Run the network in eval mode; return each neuron layer's firing rate, by its name, each
    batch norm's drift (`_drift`), and the logits [B, classes]."""
    rates: dict[str, float] = {}
    drifts: dict[str, tuple[float, float]] = {}

    def fire(name: str, _: nn.Module, __: Any, spikes: Tensor) -> None:
        rates[name] = float(spikes.mean())

    def normalise(name: str, norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        drifts[name] = _drift(norm, arguments[0])

    network.eval()
    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if isinstance(module, LIF):
                hooks.callback(module.register_forward_hook(partial(fire, name)).remove)
            if isinstance(module, BATCH_NORMS):
                hook = module.register_forward_pre_hook(partial(normalise, name))
                hooks.callback(hook.remove)
        logits = network(inputs).logits
    return rates, drifts, logits


def _drift(norm: Any, x: Tensor) -> tuple[float, float]:
    """Return how far the statistics of a batch [N, C, …] are from a norm's running ones: for the
    median channel, the distance of the means in standard deviations, and the factor between the
    variances."""
    values = x.transpose(0, 1).flatten(1).float()
    mean, variance = values.mean(1), values.var(1, correction=0) + norm.eps
    running = norm.running_var + norm.eps
    shift = ((mean - norm.running_mean).abs() / running.sqrt()).median()
    factor = torch.maximum(variance / running, running / variance).median()
    return float(shift), float(factor)


def _silent(rates: Mapping[str, float]) -> str:
    silent = [name.removesuffix(".lif") for name, rate in rates.items() if rate == 0]
    if not silent:
        return ""
    return (
        f"no spikes in {_names(silent)}, so the layers after it receive nothing; train longer, "
        "with a higher --learning-rate, or without that part (--attention none)"
    )


def _unsettled(network: SCMRL, drifts: Mapping[str, tuple[float, float]]) -> str:
    counts = [int(m.num_batches_tracked) for m in network.modules() if isinstance(m, BATCH_NORMS)]  # type: ignore[arg-type]
    drifted = [
        name for name, (shift, factor) in drifts.items() if shift > MAX_SHIFT or factor > MAX_FACTOR
    ]
    remedy = "train longer, or with --settle-norms 4"
    if min(counts) < MIN_BATCHES:
        return (
            f"batch norms have seen {min(counts)} batches and need {MIN_BATCHES} to settle: "
            f"answers are not those that were trained; {remedy}"
        )
    if drifted:
        return (
            f"batch norms have not settled: {_names(drifted)} have other statistics on held-out "
            f"clips than they keep; {remedy}"
        )
    return ""


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more layers" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
