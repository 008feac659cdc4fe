"""Files of values over time to damage, and a checkpoint of random weights that takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.config import Config, StreamConfig
from model.media.series import Series, pack_series
from model.preprocess.profiles import PROFILES
from tests.fuzz.barrage import Seed
from tests.model.media.events import event_files
from tests.service import checkpoints

SPECS = PROFILES["avdigits-tactile"]
CONFIG = Config(
    streams={
        name: StreamConfig(channels=spec.channels, size=spec.size) for name, spec in SPECS.items()
    },
    classes=10,
    embed_dim=16,
    heads=4,
)


def save_checkpoint(folder: Path) -> Path:
    """Write the checkpoint, and return its folder."""
    return checkpoints.save(folder, name="tactile", config=CONFIG, streams=SPECS, steps=1)


def seeds() -> list[Seed]:
    """Return a file of each format."""
    time_s = np.arange(180) / 200
    force = np.maximum(np.sin(9 * time_s), 0).astype(np.float32)
    csv = pack_series(Series(time_s, force))
    return [
        Seed("series.csv", csv),
        Seed("series-bare.csv", csv.split(b"\n", 1)[1].replace(b",", b";").replace(b"\n", b"\r\n")),
        Seed("series.npz", event_files.npz(t=time_s, force=force)),
        Seed("series-whole.npz", event_files.npz(t=np.arange(9), force=np.arange(9))),
    ]
