"""Small checkpoints of the embedded one's shapes, for tests that need no trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model import checkpoint
from model.checkpoint import Card
from model.config import Config, StreamConfig
from model.preprocess.profiles import PROFILES
from tests.model.networks import lively

SPECS = PROFILES["avdigits"]
CONFIG = Config(
    streams={
        name: StreamConfig(channels=spec.channels, size=spec.size) for name, spec in SPECS.items()
    },
    classes=10,
    embed_dim=16,
    heads=4,
)
STEPS = 4
LABELS = tuple("0123456789")


def card(**changes: Any) -> Card:
    """Return the card of a small network; `changes` replace its fields."""
    fields: dict[str, Any] = {
        "name": "avdigits",
        "version": "0.0.1",
        "description": "Random weights, for tests.",
        "streams": SPECS,
        "encoding": "direct",
        "steps": STEPS,
        "labels": LABELS,
        "config": CONFIG,
        "missing_streams": True,
    }
    return Card(**fields | changes)


def save(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint with random weights, and return its folder."""
    new_card = card(**changes)
    checkpoint.save(folder, lively(new_card.config, seed), new_card)
    return folder
