"""A faster import of torch, which is half of the time until the service is ready."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
import threading
from pathlib import Path
from types import ModuleType

#: Modules that `import torch` needs for tracing only (torch.compile, torch.export, tensors on
#: "meta"): operators' output shapes and decompositions, in Python.
_FOR_TRACING = ("torch._meta_registrations", "torch.distributed._meta_registrations")


def preload() -> None:
    """Load torch's largest library in a thread, in parallel with imports of Python code.

    An import holds Python's lock while the library loads; a foreign call does not. Modules with
    shared libraries wait for this one: import them before or after. If loading fails, the import
    of torch raises the error.
    """
    torch = importlib.util.find_spec("torch")
    if sys.platform != "linux" or torch is None or torch.origin is None:
        return
    library = os.fsencode(Path(torch.origin).parent / "lib" / "libtorch_cpu.so")
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    threading.Thread(target=dlopen, args=(library, os.RTLD_NOW), name="scmrl-preload").start()


def import_torch() -> None:
    """Import torch; without a GPU, skip the modules for tracing, a fifth of the time.

    Nothing is traced on a CPU here; code that traces imports those modules itself. Triton, which
    CUDA builds of torch bring, is hidden as well: spikingjelly would make torch import its whole
    compiler.
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
    sys.modules["triton"] = None  # type: ignore[assignment]  # as if it were not installed
    if torch.cuda.is_available():
        _complete()


def _complete() -> None:
    """Import what a GPU needs.

    Triton comes last: spikingjelly has then registered its neuron without the compiler, and still
    computes it with Triton.
    """
    import torch

    for name in _FOR_TRACING:
        importlib.import_module(name)
    from model.network.neuron import LIF

    LIF()(torch.zeros(1, 1))
    del sys.modules["triton"]
