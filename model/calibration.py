"""Calibrated logits: the only place where the temperature of a card is applied."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from model.checkpoint import Card


def calibrated(logits: Tensor, card: Card, steps: int, streams: Collection[str]) -> Tensor:
    """Return logits [..., classes] divided by the card's temperature: their softmax are the
    probabilities that the service returns.

    `steps` is the T, and `streams` are the streams, that the network ran with. Without a
    calibration in the card, the logits themselves are returned.
    """
    if card.calibration is None:
        return logits
    used = [name for name in card.streams if name in streams]
    alone = used[0] if len(used) == 1 < len(card.streams) else None
    return logits / card.calibration.temperature_at(steps, alone)
