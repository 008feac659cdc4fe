"""The checkpoints as the engine process sends them to HTTP workers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from service.inference.registry import Status

if TYPE_CHECKING:
    from model.checkpoint import Card


class ServedEntry(BaseModel):
    """A checkpoint that is served.

    `column`: its place on the board. `card`: in JSON. The others are as in `models.Checkpoint` and
    `admission.Admission`.
    """

    model_config = ConfigDict(frozen=True)

    column: int
    card: str
    device: str
    path: str | None
    slots: int
    max_wait_s: float
    always_admit: int


class Entry(BaseModel):
    """A checkpoint by its name; `served` where it is ready."""

    model_config = ConfigDict(frozen=True)

    name: str
    status: Status
    served: ServedEntry | None = None


class Snapshot(BaseModel):
    """All checkpoints, the default one first."""

    model_config = ConfigDict(frozen=True)

    entries: tuple[Entry, ...] = ()

    @property
    def columns(self) -> frozenset[int]:
        """The columns of the checkpoints that are served."""
        return frozenset(e.served.column for e in self.entries if e.served is not None)


@lru_cache(maxsize=64)
def parse_card(text: str) -> Card:
    """Return a card; the same one for the same text."""
    from model.checkpoint import Card

    return Card.model_validate_json(text)
