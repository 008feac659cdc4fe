"""Checkpoints: weights as safetensors beside a card, and the import of published ones.

A checkpoint is a folder of `model.safetensors` and `card.json`. `load` returns its network, in eval
mode on the CPU, and its card; `save` writes both; `read_card` reads the card alone, without torch.
All raise CheckpointError, which names the file and the field or tensor, where one cannot be used.
No code that a file carries is run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from model.checkpoint.card import (
    CARD,
    WEIGHTS,
    Calibration,
    Card,
    CheckpointError,
    FeatureReference,
    LogitReference,
    Measurement,
    OODReferences,
    Source,
    TowerReference,
    Training,
    read_card,
)

if TYPE_CHECKING:
    from model.checkpoint.checkpoint import load, save
    from model.checkpoint.published import import_published, import_published_file

__all__ = [
    "CARD",
    "WEIGHTS",
    "Calibration",
    "Card",
    "CheckpointError",
    "FeatureReference",
    "LogitReference",
    "Measurement",
    "OODReferences",
    "Source",
    "TowerReference",
    "Training",
    "import_published",
    "import_published_file",
    "load",
    "read_card",
    "save",
]

#: Functions that need torch, and their modules: imported at first use, so that a card is read
#: without torch.
_LAZY = {
    "load": "checkpoint",
    "save": "checkpoint",
    "import_published": "published",
    "import_published_file": "published",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
