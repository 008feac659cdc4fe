"""Which objects Python's search for cyclic garbage goes through: those of requests alone.

A full search goes through every object there is and stops all threads meanwhile: with the
modules of torch and numba loaded, for a third of a second on two slow cores.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from model import allocator


@contextmanager
def uncollected() -> Iterator[None]:
    """No search while modules are loaded, and none later among what that left."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        spare()
        if was_on:
            gc.enable()


def spare() -> None:
    """Leave out what there is now: modules and checkpoints, which stay."""
    gc.freeze()


def sweep() -> None:
    """Search all objects once, frozen ones too, and return the freed memory to the kernel."""
    gc.unfreeze()
    gc.collect()
    spare()
    allocator.trim()
