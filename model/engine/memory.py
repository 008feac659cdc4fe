"""How much memory a device has, and how much of it this process holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup/memory.max")
_STATM = Path("/proc/self/statm")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Memory:
    """`held` by this process and the most there is, in bytes."""

    held: int
    limit: int


def memory(device: torch.device, statm: Path = _STATM, cgroup: Path = _CGROUP) -> Memory | None:
    """Memory of a device; None where the system does not say.

    On CUDA it is what torch has taken, in use or kept for later, without CUDA's own context; on
    a CPU what is resident, and the limit is the container's or else the machine's.
    """
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        return Memory(torch.cuda.memory_reserved(device), whole)
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        machine = page * os.sysconf("SC_PHYS_PAGES")
        return Memory(page * int(statm.read_text().split()[1]), min(machine, _quota(cgroup)))
    except (OSError, ValueError, AttributeError):
        return None


def greatest_resident() -> int:
    """The most memory, in bytes, that was resident since this process's program began (Linux).

    getrusage would count what the process that started it held at that moment.
    """
    told = _STATUS.read_text().split("VmHWM:")[1].split()[0]
    return 1024 * int(told)


def _quota(cgroup: Path) -> int:
    """The container's memory in bytes; a number beyond any machine's where it has no limit."""
    told = cgroup.read_text().strip() if cgroup.exists() else "max"
    return 1 << 62 if told == "max" else int(told)
