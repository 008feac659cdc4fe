"""Garbage collection over the objects of requests only.

A full collection visits every object and stops all threads meanwhile: with the modules of torch
and numba loaded, for a third of a second on two slow cores. Objects that stay are frozen.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from model import allocator


@contextmanager
def disabled() -> Iterator[None]:
    """Disable the collector in a block that loads modules, then freeze what the block left."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        freeze()
        if was_on:
            gc.enable()


def freeze() -> None:
    """Exclude all present objects (modules, checkpoints) from collection."""
    gc.freeze()


def collect_all() -> None:
    """Collect once over all objects, frozen ones too; return the freed memory to the kernel."""
    gc.unfreeze()
    gc.collect()
    freeze()
    allocator.trim()
