"""New neurons of CMCI that start close to the sum of the streams.

The neurons' rates cannot be the sum: at T = 1 each is 0 or 1. But they can count how far a logit of
the sum has got. With l_k[t] the logit k of the sum of the streams at step t, without
its bias, neuron i of class k has the current

    I_i[t] = tau threshold (1 + (l_k[t] - level_i) / step_k)

so that at T = 1 it fires where l_k reaches its level. The levels of a class are step_k apart, from
the least to the greatest l_k of some clips. The head counts the neurons of a class that fire:
slope_k and bias_k are those of the linear regression of the sum's logit on that count.

Neuron i belongs to class i mod K, so that each class has C / K levels: what is lost is the rounding
to them, and with one stream alone the current lacks the bias of the other: its l_k counts about M
times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor

from model.network import SCMRL
from model.network.fusion import Current, CurrentIntegration


def can_start_as_sum(network: SCMRL) -> bool:
    """Whether there are two neurons for each class."""
    return network.config.embed_dim >= 2 * network.config.classes


@torch.no_grad()
def start_as_sum(network: SCMRL, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Set the currents and the head of a network with CMCI, whose head is that of the sum.

    `batches` of inputs [T, B, C, H, W] of all streams, at least one, give the ranges of the logits.
    """
    fuse = network.fuse
    assert isinstance(fuse, CurrentIntegration)
    features = _features(network, fuse, batches)
    weight, bias = network.head.weight.clone(), network.head.bias.clone()
    terms = {name: x @ weight.T for name, x in features.items()}  # [T, clips, K] each
    logits = torch.stack(list(terms.values())).sum(0)
    levels, steps = _levels(logits, network.config.embed_dim)
    classes = _classes(network)
    full = fuse.lif.v_threshold / (1 - fuse.lif.decay)  # the current that fires at once
    middle = torch.stack([x.mean((0, 1)) for x in terms.values()]).sum(0)[classes]
    bias_of_all = full * (1 - (levels - middle) / steps)
    for name, term in terms.items():
        mean, variance = term.mean((0, 1))[classes], term.var((0, 1), unbiased=False)[classes]
        current = cast(Current, fuse.current[name])
        current.linear.weight.copy_(weight[classes])
        current.norm.running_mean = mean
        current.norm.running_var = variance
        current.norm.weight.copy_(full / steps * (variance + current.norm.eps).sqrt())
        current.norm.bias.copy_(bias_of_all / len(terms))
    _fit_head(network, fuse, features, logits.mean(0) + bias, steps)


def _features(
    network: SCMRL, fuse: CurrentIntegration, batches: Iterable[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the features [T, clips, C] of each stream that the fusion receives."""
    received: list[Mapping[str, Tensor]] = []
    hook = fuse.register_forward_pre_hook(lambda _, arguments: received.append(arguments[0]))
    was_training = network.training
    network.eval()
    for inputs in batches:
        network(inputs)
    hook.remove()
    network.train(was_training)
    return {name: torch.cat([each[name] for each in received], 1) for name in received[0]}


def _classes(network: SCMRL) -> Tensor:
    """Return the class of each neuron [C]."""
    neurons = torch.arange(network.config.embed_dim, device=network.head.weight.device)
    return neurons % network.config.classes


def _levels(logits: Tensor, neurons: int) -> tuple[Tensor, Tensor]:
    """Return the level of each neuron, and the distance of the levels of its class, both [C]."""
    least, greatest = logits.amin((0, 1)), logits.amax((0, 1))
    number = torch.arange(neurons, device=logits.device)
    classes, place = number % len(least), number // len(least)
    count = torch.bincount(classes)[classes]
    extent = greatest - least
    steps = torch.where(extent > 0, extent, 1.0)[classes] / count
    return least[classes] + (place + 0.5) * steps, steps


def _fit_head(
    network: SCMRL,
    fuse: CurrentIntegration,
    features: Mapping[str, Tensor],
    logits: Tensor,
    steps: Tensor,
) -> None:
    """Set the head by a linear regression, for each class, of logits [clips, K] on the count of its
    neurons that fire."""
    was_training = fuse.training
    parts, _ = fuse.eval()(features)
    fuse.train(was_training)
    rates = torch.stack(list(parts.values())).sum(0)
    classes = _classes(network)
    members = torch.nn.functional.one_hot(classes, network.config.classes).to(rates.dtype)  # [C, K]
    counts = rates @ members
    spread = counts.var(0, unbiased=False)
    covariance = ((counts - counts.mean(0)) * (logits - logits.mean(0))).mean(0)
    slope = torch.where(spread > 0, covariance / spread, steps[: len(spread)])
    network.head.weight.copy_((members * slope).T)
    network.head.bias.copy_(logits.mean(0) - slope * counts.mean(0))
