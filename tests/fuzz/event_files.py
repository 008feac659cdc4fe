"""Files of events to damage, and a checkpoint of random weights that takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.config import Config, StreamConfig
from model.preprocess.specs import ChannelEventSpec, EventFrameSpec
from tests.fuzz.barrage import Seed
from tests.model.media.events import event_files
from tests.service import checkpoints

SPECS = {
    "audio": ChannelEventSpec(bands=64, grid=(8, 8), size=(28, 28)),
    "visual": EventFrameSpec(size=(28, 28), sensor=(34, 34), mean=0.1307, std=0.3081),
}
CONFIG = Config(
    streams={
        name: StreamConfig(channels=spec.channels, size=spec.size, splitting="shallow")
        for name, spec in SPECS.items()
    },
    classes=10,
    embed_dim=16,
    heads=4,
)


def save_checkpoint(folder: Path) -> Path:
    """Write the checkpoint, and return its folder."""
    return checkpoints.save(folder, name="digits", config=CONFIG, streams=SPECS, steps=16)


def cochlea(count: int = 800, channels: int = 64) -> bytes:
    """Return random events of a cochlea over 0.9 s."""
    rng = np.random.default_rng(3)
    return event_files.npz(
        channel=rng.integers(0, channels, count), t=rng.integers(0, 900_000, count)
    )


def seeds(scratch: Path) -> list[Seed]:
    """Return a file of each format; `scratch` is a folder that faery may write to."""
    camera = event_files.events(3000)
    small = camera[(camera["x"] < 34) & (camera["y"] < 34)]
    formats = {
        "evt2.raw": {"version": "evt2"},
        "evt3.raw": {"version": "evt3"},
        "plain.aedat4": {"compression": None},
        "lz4.aedat4": {},
        "zstd.aedat4": {"compression": ("zstd", 3)},
    }
    files = [Seed(name, event_files.encode(camera, scratch / name, **options))
             for name, options in formats.items()]  # fmt: skip
    npz = event_files.npz(x=camera["x"], y=camera["y"], t=camera["t"], p=camera["on"])
    dvs128 = camera[(camera["x"] < 128) & (camera["y"] < 128)]
    jaer = event_files.aerdat(dvs128["x"], dvs128["y"], dvs128["t"], dvs128["on"])
    files += [Seed("camera.npz", npz), Seed("jaer.aedat", jaer)]
    return [*files, Seed("nmnist.bs2", event_files.nmnist(small)), Seed("cochlea.npz", cochlea())]
