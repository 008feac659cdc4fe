"""Measured tiles on disk: one file for each card and version of what compiles kernels.

It is beside Triton's compiled kernels (TRITON_CACHE_DIR). A file that is damaged, or cannot be
read or written, is ignored with a log line: tiles are then measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import triton

from model.fused.cuda.tiles import LayerShape, Measurement, Tile, candidates

log = logging.getLogger("scmrl.engine")

#: Sources that decide what a tile computes, and how fast.
_SOURCES = ("triton_kernels.py", "packed_spikes.py", "tiles.py")
_DRIVER = Path("/proc/driver/nvidia/version")
#: Largest file that is read, in bytes: some thousand layers.
_MAX_BYTES = 4 * 2**20


def card(device: torch.device) -> dict[str, str]:
    """Return what tiles depend on beside the layer: the card, its driver, and versions."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    else:  # Triton's interpreter
        name, capability = platform.machine(), "interpreter"
    driver = ""
    with suppress(OSError):
        driver = _DRIVER.read_text().splitlines()[0]
    folder = Path(__file__).parent
    sources = b"".join((folder / source).read_bytes() for source in _SOURCES)
    return {
        "card": name,
        "capability": capability,
        "driver": driver,
        "cuda": str(torch.version.cuda),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "kernels": hashlib.sha256(sources).hexdigest(),
    }


class TileCache:
    """The measured tiles of a card. `folder`: by default that of Triton's compiled kernels."""

    def __init__(self, device: torch.device, folder: Path | None = None) -> None:
        self._card = card(device)
        name = hashlib.sha256(json.dumps(self._card, sort_keys=True).encode()).hexdigest()[:16]
        folder = Path(triton.knobs.cache.dir) if folder is None else folder
        self.path = folder / f"scmrl-tiles-{name}.json"

    def read(self) -> dict[LayerShape, Measurement]:
        """Return the tiles by layer shape; none where the file is missing or damaged."""
        try:
            if self.path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES} bytes")
            return _parse(json.loads(self.path.read_bytes()), self._card)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as exc:
            log.warning("measured tiles in %s are ignored: %r", self.path, exc)
            return {}

    def write(self, tiles: Mapping[LayerShape, Measurement]) -> None:
        """Add tiles to the file, in place of those of the same layers."""
        merged = self.read() | dict(tiles)
        content = {
            "card": self._card,
            "tiles": [{"layer": asdict(shape), **asdict(m)} for shape, m in merged.items()],
        }
        partial = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # In the same folder, so that a reader finds the old file or the new one.
            handle, partial = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
            with os.fdopen(handle, "w") as file:
                json.dump(content, file)
            os.replace(partial, self.path)
        except OSError as exc:
            log.warning("measured tiles cannot be cached (TRITON_CACHE_DIR): %s", exc)
            if partial is not None:
                with suppress(OSError):
                    os.unlink(partial)


def _parse(content: Any, expected: Mapping[str, str]) -> dict[LayerShape, Measurement]:
    """Return the tiles in a file's content. Raises ValueError, TypeError or KeyError."""
    if content["card"] != expected:
        raise ValueError("they are of another card or version")
    tiles = {
        LayerShape(**row["layer"]): Measurement(Tile(**row["tile"]), row["tried"])
        for row in content["tiles"]
    }
    for shape, measured in tiles.items():
        if measured.tried < 1 or measured.tile not in candidates(shape)[: measured.tried]:
            raise ValueError(f"{measured} is none of {shape}")
    return tiles
