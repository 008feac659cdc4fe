"""Pictures of two objects of which one is heard, which the data of a task may offer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from model.media.types import Pictures, Sound

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class TwoObjects:
    """Pictures of two objects of different classes, and a sound of each.

    `boxes` (left, top, right, bottom) in pixels, `labels` and `sounds` are in the same order.
    """

    pictures: Pictures
    boxes: tuple[Box, Box]
    labels: tuple[int, int]
    sounds: tuple[Sound, Sound]


@runtime_checkable
class TwoObjectData(Protocol):
    """Data of a task that offers pictures of two objects."""

    def two_objects(self, count: int, seed: int) -> Iterator[TwoObjects]:
        """Yield `count` of them that training never saw; each depends on the seed and its index
        alone."""
