"""The locks under which networks run: one for each CUDA device, one for each engine on a CPU."""

from __future__ import annotations

import threading

import torch

#: Seconds after which a CUDA device's lock counts as held by a thread that hangs: no run, recording
#: or measurement holds it for as long.
_HANGS_S = 20.0

_locks: dict[int, threading.Lock] = {}
_guard = threading.Lock()


def device_lock(device: torch.device) -> threading.Lock:
    """Return the lock to hold while a network runs, or is recorded, on a device.

    A CUDA device has one for all engines of the process: a recording begins with waiting for the
    whole device, which would break the recording of another engine there. On a CPU each engine has
    its own.
    """
    if device.type != "cuda":
        return threading.Lock()
    with _guard:
        return _locks.setdefault(_index(device), threading.Lock())


def abandon_if_held(device: torch.device, lock: threading.Lock) -> None:
    """Give a CUDA device another lock where a thread that hangs holds `lock`, for engines that are
    made afterwards."""
    if device.type != "cuda":
        return
    if lock.acquire(timeout=_HANGS_S):
        lock.release()
        return
    with _guard:
        if _locks.get(_index(device)) is lock:  # else another engine has replaced it already
            _locks[_index(device)] = threading.Lock()


def _index(device: torch.device) -> int:
    """Return the number of a CUDA device: "cuda" is the current one."""
    return torch.cuda.current_device() if device.index is None else device.index
