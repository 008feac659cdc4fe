"""The resources of a running service: its memory and its processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from model.engine.memory import memory


@dataclass(frozen=True)
class Resident:
    """The resident memory of the service's process, and the number of its child processes."""

    service_mib: int
    processes: int


def resident(pid: int) -> Resident:
    """Return the current resources of a service on this machine."""
    memory_used = memory(torch.device("cpu"), statm=Path(f"/proc/{pid}/statm"))
    assert memory_used is not None
    own = [entry for entry in os.listdir("/proc") if entry.isdecimal() and _parent(entry, pid)]
    return Resident(memory_used.used // (1 << 20), len(own))


def _parent(entry: str, pid: int) -> bool:
    """Return whether the process is a child of the service, or a grandchild (a decoder)."""
    for _ in range(2):
        try:
            entry = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1]
        except (OSError, IndexError):
            return False
        if int(entry) == pid:
            return True
    return False
