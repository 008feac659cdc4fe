"""The network on one device: its fastest path, compared with the plain network before use."""

from model.engine.engine import (
    Engine,
    Path,
    computing,
    devices,
)

__all__ = [
    "Engine",
    "Path",
    "computing",
    "devices",
]
