"""Start a training from a checkpoint of other labels, streams or sizes: the parts that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoint import Card
from model.network import SCMRL
from model.training.fusion_head import by_stream, is_of_features, joined
from model.training.net2net import raise_thresholds, widen_tensor


@dataclass(frozen=True)
class Transferred:
    """Parts of a network whose weights were taken, and those that are new."""

    parts: tuple[str, ...]
    new: tuple[str, ...]
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        new = f"; new: {', '.join(self.new)}" if self.new else ""
        return f"weights of {', '.join(self.parts)}{new}"


def transfer(
    source: SCMRL, card: Card, target: SCMRL, labels: Sequence[str], seed: int = 0
) -> Transferred:
    """Load the weights of `source` into the parts of `target` that they fit.

    `card` is that of the source, `labels` those of the target. Channels of the target must be as
    many, or a multiple (net2net). A first convolution of other input channels gets the mean over
    them, which keeps its current for equal channels. The classifier keeps the rows of labels that
    both have; where the fusion is another one, it is made from that of the source (fusion_head).
    """
    channels, own_channels = source.config.embed_dim, target.config.embed_dim
    if own_channels % channels:
        problem = f"has {channels} channels; use --channels {channels}, or a multiple of it"
        return Transferred((), (), problem)
    generator = torch.Generator().manual_seed(seed)
    source_state, target_state = source.state_dict(), target.state_dict()
    fitting: dict[str, Tensor] = {}
    for name, like in target_state.items():
        if name.startswith("head."):
            continue
        x = _fitted(name, source_state.get(name), like, generator)
        if x is not None:
            fitting[name] = x
    fitting |= _head(source, target, _shared(card.labels, labels), generator)
    raise_thresholds(fitting, source, target)
    complete = {
        part
        for part in map(_part, target_state)
        if all(name in fitting for name in target_state if _part(name) == part)
    }
    parts = list(dict.fromkeys(map(_part, target_state)))
    new = tuple(part for part in parts if part not in complete)
    if not any(part.startswith("patch.") for part in complete):
        return Transferred((), (), "no part of its network fits: its streams are others")
    target.load_state_dict(
        {n: fitting[n] if _part(n) in complete else x for n, x in target_state.items()}
    )
    return Transferred(tuple(part for part in parts if part in complete), new)


def _part(name: str) -> str:
    """Return the part of the network that a tensor belongs to, such as `patch.audio`."""
    pieces = name.split(".")
    return pieces[0] if pieces[0] == "head" else ".".join(pieces[:2])


def _shared(source_labels: Sequence[str], target_labels: Sequence[str]) -> dict[int, int]:
    """Return the rows of labels that both have: those of the source by those of the target."""
    rows = {label: row for row, label in enumerate(source_labels)}
    return {row: rows[label] for row, label in enumerate(target_labels) if label in rows}


def _fitted(name: str, x: Tensor | None, like: Tensor, generator: torch.Generator) -> Tensor | None:
    """Return a tensor in the shape of another one; None where it does not fit."""
    if x is None or x.dim() != like.dim():
        return None
    if name.endswith("stages.0.conv.weight") and x.shape[1] != like.shape[1]:
        x = x.sum(1, keepdim=True).expand(-1, like.shape[1], -1, -1) / like.shape[1]
    try:
        return widen_tensor(name, x, like.shape, generator)
    except ValueError:
        return None


def _head(
    source: SCMRL, target: SCMRL, rows: dict[int, int], generator: torch.Generator
) -> dict[str, Tensor]:
    """Return weight and bias of the classifier with the rows that both have; none for none, or
    where the head of the source alone reads firing rates."""
    fits = is_of_features(source.config) or not is_of_features(target.config)
    if not rows or not fits:
        return {}
    source_rows = list(rows.values())
    shape = torch.Size([len(rows), target.config.embed_dim])
    weights = by_stream(source) if is_of_features(source.config) else {"": source.head.weight}
    blocks = {id(x): x for x in weights.values()}  # one, but of a concatenation
    widened = {
        key: widen_tensor("head.weight", x[source_rows], shape, generator)
        for key, x in blocks.items()
    }
    weights = {name: widened[id(x)] for name, x in weights.items()}
    shared = {
        "weight": joined(weights, target.config),
        "bias": source.head.bias.detach()[source_rows],
    }
    head = {f"head.{name}": x.clone() for name, x in target.head.state_dict().items()}
    for name, x in shared.items():
        head[f"head.{name}"][list(rows)] = x.to(head[f"head.{name}"].device)
    return head
