"""torch, imported sooner: half of the time that a service takes until it is ready."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
import threading
from pathlib import Path
from types import ModuleType

#: What `import torch` runs for tracing alone (torch.compile, torch.export, tensors on "meta"):
#: which shapes come out of each operator, and what it is made of, in Python.
_FOR_TRACING = ("torch._meta_registrations", "torch.distributed._meta_registrations")


def preload() -> None:
    """Load torch's largest library in a thread, beside imports of Python code.

    Importing it would keep Python from running anything meanwhile; a foreign call does not. What
    has libraries of its own waits for this one, and is best imported before or after. Where it
    fails, the import of torch says why.
    """
    torch = importlib.util.find_spec("torch")
    if sys.platform != "linux" or torch is None or torch.origin is None:
        return
    library = os.fsencode(Path(torch.origin).parent / "lib" / "libtorch_cpu.so")
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    threading.Thread(target=dlopen, args=(library, os.RTLD_NOW), name="scmrl-preload").start()


def import_torch() -> None:
    """Import torch; where there is no GPU, without what only tracing needs, a fifth of the time.

    Nothing is traced here on a CPU. Whoever does so imports those modules, and has all of torch.
    Triton, which torch brings where it is made for CUDA, is out of sight as well: spikingjelly,
    where it finds it, has torch look for kernels with all of its compiler, which traces.
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
    sys.modules["triton"] = None  # type: ignore[assignment]  # as where it is not installed
    if torch.cuda.is_available():
        _complete()


def _complete() -> None:
    """Bring back what a GPU may need.

    Triton last: spikingjelly has registered its neuron by then, without the compiler, and computes
    it by Triton all the same.
    """
    import torch

    for name in _FOR_TRACING:
        importlib.import_module(name)
    from model.network.neuron import LIF

    LIF()(torch.zeros(1, 1))
    del sys.modules["triton"]
