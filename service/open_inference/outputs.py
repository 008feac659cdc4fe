"""The outputs of inference: tensors of all clips of a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.classification.schemas import Classification, SpatialMap, TemporalMap
from service.errors import Error, Problem
from service.open_inference.requests import RequestedOutput
from service.open_inference.tensors import Tensor, texts

if TYPE_CHECKING:
    from model.checkpoint import Card

#: Of these, the highest can be requested as texts.
_RANKED = ("probabilities", "logits")
_MAPS = ("spatial", "temporal")


def output_names(card: Card) -> list[str]:
    """Return the names of all outputs of a checkpoint; those that are sent by default first."""
    maps = [f"attention.{stream}.{kind}" for stream in card.streams for kind in _MAPS]
    activations = [f"class_activation.{stream}" for stream in card.streams]
    several = len(card.streams) > 1
    return [*_RANKED, "contributions", "label", *(maps if several else ()), *activations]


def check_outputs(requested: Sequence[RequestedOutput], card: Card) -> Sequence[RequestedOutput]:
    """Return the outputs that are requested, or those that are sent by default.

    Raises Problem INVALID_FIELD.
    """
    names = output_names(card)
    for output in requested:
        if output.name not in names:
            detail = f"No such output: {output.name[:100]!r}; there are {', '.join(names)}."
            raise Problem(Error.INVALID_FIELD, detail, field=output.name[:100])
        if output.top and output.name not in _RANKED:
            detail = f"Output `{output.name}`: `classification` is for {' and '.join(_RANKED)}."
            raise Problem(Error.INVALID_FIELD, detail, field=output.name)
    default = [name for name in names if "." not in name]
    return requested or [RequestedOutput(name) for name in default]


def output_tensors(
    answers: Sequence[Classification], card: Card, outputs: Sequence[RequestedOutput]
) -> list[Tensor]:
    """Return the outputs, whose first dimension is the clips. Raises Problem INVALID_FIELD where
    the maps of the clips have different shapes."""
    return [_output(answers, card, output) for output in outputs]


def _output(answers: Sequence[Classification], card: Card, output: RequestedOutput) -> Tensor:
    name = output.name
    if name == "label":
        return texts(name, [[answer.prediction.label or ""] for answer in answers])
    if name in _RANKED:
        read: Callable[[Classification, Card], NDArray[np.float32]]
        read = _probabilities if name == "probabilities" else _logits
        values = np.stack([read(answer, card) for answer in answers])
        if output.top:
            return texts(name, [_highest(row, card, output.top) for row in values])
        return Tensor(name, "FP32", values)
    if name == "contributions":
        return Tensor(name, "FP32", np.stack([_contributions(answer, card) for answer in answers]))
    return Tensor(name, "FP32", _maps(answers, name))


def _probabilities(answer: Classification, card: Card) -> NDArray[np.float32]:
    values = np.zeros(len(card.labels), np.float32)
    for ranked in answer.probabilities:
        values[ranked.index] = ranked.probability
    return values


def _contributions(answer: Classification, card: Card) -> NDArray[np.float32]:
    """Return the terms [streams + 1, labels], the bias last."""
    rows = [answer.contributions[name] for name in (*card.streams, "bias")]
    return np.array([[row[label] for label in card.labels] for row in rows], np.float32)


def _logits(answer: Classification, card: Card) -> NDArray[np.float32]:
    """Return the sum of the terms."""
    rows = answer.contributions.values()
    sums = [sum(row[label] for row in rows) for label in card.labels]
    return np.array(sums, np.float32)


def _highest(values: NDArray[np.float32], card: Card, top: int) -> list[str]:
    """Return value, index and label of the highest values, highest first."""
    order = np.argsort(-values, kind="stable")[:top]
    return [f"{values[i]:f}:{i}:{card.labels[i]}" for i in order]


def _maps(answers: Sequence[Classification], name: str) -> NDArray[np.float32]:
    """Return the maps of each clip, 0 where it has none."""
    maps = [_map(answer, name) for answer in answers]
    shapes = {values.shape for values in maps if values is not None}
    if len(shapes) > 1:
        detail = f"Output `{name}`: the maps of the clips have different shapes; send one clip."
        raise Problem(Error.INVALID_FIELD, detail, field=name)
    empty = np.zeros(next(iter(shapes), (1, 1)), np.float32)
    return np.stack([empty if values is None else values for values in maps])


def _map(answer: Classification, name: str) -> NDArray[np.float32] | None:
    kind, _, rest = name.partition(".")
    chosen: SpatialMap | TemporalMap | None
    if kind == "class_activation":
        activation = answer.class_activation
        drawn = None if activation is None else activation.maps.get(rest)
        chosen = None if drawn is None else drawn.spatial
    else:
        stream, _, over = rest.rpartition(".")
        maps = (answer.attention or {}).get(stream)
        chosen = None if maps is None else maps.spatial if over == "spatial" else maps.temporal
    return None if chosen is None else np.array(chosen.values, np.float32)
