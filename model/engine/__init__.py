"""The network on one device, on the fastest path that gives the plain network's outputs."""

from model.engine.engine import Engine, devices
from model.engine.plain import inference_context

__all__ = [
    "Engine",
    "devices",
    "inference_context",
]
