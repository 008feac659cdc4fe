"""Calibrated logits: the only place where the temperature of a card is applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.out_of_distribution import ood_score, used_streams

if TYPE_CHECKING:
    from model.checkpoint import Card
    from model.output import ArrayT, Output

#: Greatest factor of a temperature: beyond it, probabilities are equal in float32.
_MAX_FACTOR = 1e6


def calibrated(output: Output[ArrayT], card: Card, steps: int) -> ArrayT:
    """Return the logits [B, classes] divided by the temperature of the card: their softmax are the
    probabilities that the service returns.

    `steps` is the T that the network ran with. For out-of-distribution clips the temperature grows
    with the OOD score, where the card says so (density-aware calibration, arXiv 2302.05118): the
    order of the classes stays, and their probabilities approach equal ones. Without a calibration
    in the card, the logits themselves are returned.
    """
    return calibrated_by(ood_score(output, card, steps), output, card, steps)


def calibrated_by(scores: ArrayT | None, output: Output[ArrayT], card: Card, steps: int) -> ArrayT:
    """Return what `calibrated` does, from the OOD scores [B] of the same arguments."""
    if card.calibration is None:
        return output.logits
    return tempered(output, card, steps) / growth(scores, output, card)


def tempered(output: Output[ArrayT], card: Card, steps: int) -> ArrayT:
    """Return the logits [B, classes] divided by the temperature that known clips have."""
    if card.calibration is None:
        return output.logits
    used = used_streams(output, card)
    alone = used[0] if len(used) == 1 < len(card.streams) else None
    return output.logits / card.calibration.temperature_at(steps, alone)


def growth(scores: ArrayT | None, output: Output[ArrayT], card: Card) -> ArrayT | float:
    """Return the factor [B, 1], at least 1, by which the temperature of each clip grows, from the
    OOD scores [B]."""
    features = card.domain and card.domain.features.get("+".join(used_streams(output, card)))
    if scores is None or not features:
        return 1.0
    return grown(scores, features.growth)[:, None]


def grown(scores: ArrayT, power: float) -> ArrayT:
    """Return the factors [B] for OOD scores [B]: score ** power, clipped to 1 to _MAX_FACTOR."""
    with np.errstate(over="ignore"):  # of arrays; infinity is clipped as well
        return (scores.clip(1, None) ** power).clip(None, _MAX_FACTOR)
