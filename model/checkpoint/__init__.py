"""Checkpoints: weights as safetensors beside a card, and published ones."""

from model.checkpoint.checkpoint import (
    CARD,
    WEIGHTS,
    Card,
    CheckpointError,
    Measurement,
    Source,
    Training,
    import_published,
    import_published_file,
    load,
    read_card,
    save,
)

__all__ = [
    "CARD",
    "WEIGHTS",
    "Card",
    "CheckpointError",
    "Measurement",
    "Source",
    "Training",
    "import_published",
    "import_published_file",
    "load",
    "read_card",
    "save",
]
