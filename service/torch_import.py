"""torch, imported sooner: half of the time that a service takes until it is ready."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

#: What `import torch` runs for tracing alone (torch.compile, torch.export, tensors on "meta"):
#: which shapes come out of each operator, and what it is made of, in Python.
_FOR_TRACING = ("torch._meta_registrations", "torch.distributed._meta_registrations")


def import_torch() -> None:
    """Import torch; where there is no GPU, without what only tracing needs, a fifth of the time.

    Nothing is traced here on a CPU. Whoever does so imports those modules, and has all of torch.
    """
    if "torch" in sys.modules:
        return
    for name in _FOR_TRACING:
        sys.modules[name] = ModuleType(name)
    try:
        import torch
    finally:
        for name in _FOR_TRACING:
            del sys.modules[name]
    importlib.import_module("torch._prims")  # without it there is no torch.Generator
    if torch.cuda.is_available():
        for name in _FOR_TRACING:
            importlib.import_module(name)
