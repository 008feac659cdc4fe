"""What a running service holds: its memory and its processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from model.engine.memory import memory


@dataclass(frozen=True)
class Resident:
    """The service's own resident memory, and how many processes it has started."""

    service_mib: int
    processes: int


def resident(pid: int) -> Resident:
    """What a service of this machine holds now."""
    memory_used = memory(torch.device("cpu"), statm=Path(f"/proc/{pid}/statm"))
    assert memory_used is not None
    own = [entry for entry in os.listdir("/proc") if entry.isdecimal() and _parent(entry, pid)]
    return Resident(memory_used.used // (1 << 20), len(own))


def _parent(entry: str, pid: int) -> bool:
    """Whether the process is the service's child or grandchild: the fork server's decoders are."""
    for _ in range(2):
        try:
            entry = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1]
        except (OSError, IndexError):
            return False
        if int(entry) == pid:
            return True
    return False
