"""The paper's hyperparameters, as defaults of `TrainOptions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Default of `TrainOptions.test_clips`: more than any test set has, so all of it is measured.
ALL_CLIPS = 100_000
#: Augmented versions that the published training keeps of each clip.
COPIES = 3
#: Hyperparameters that all three tasks share.
PAPER: Mapping[str, Any] = {
    "epochs": 100,
    "batch": 128,
    "learning_rate": 5e-3,
    "learning_rate_batch": 1024,
    "learning_rate_floor": 1e-5,
    "weight_decay": 1e-4,
    "warmup_epochs": 5.0,
    "max_gradient_norm": 0.0,
    "label_smoothing": 0.1,
    "alpha": 1.5,
    "temperature": 0.07,
    "short_sequences": False,
    "curriculum": 0.0,
    "precision": "float32",
    "test_clips": ALL_CLIPS,
}
