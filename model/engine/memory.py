"""The memory of a device, and the part that this process uses."""

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
    """Bytes `used` by this process, and the `limit`."""

    used: int
    limit: int


def memory(device: torch.device, statm: Path = _STATM, cgroup: Path = _CGROUP) -> Memory | None:
    """Return the memory of a device; None where the system does not report it.

    On CUDA it is what torch has reserved, without CUDA's own context. On a CPU it is resident
    memory, and the limit is the container's or else the machine's.
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


def peak_resident() -> int:
    """Return the peak of resident memory since this process's program started, in bytes (Linux).

    getrusage would include the memory of the parent process at the fork.
    """
    kilobytes = _STATUS.read_text().split("VmHWM:")[1].split()[0]
    return 1024 * int(kilobytes)


def _quota(cgroup: Path) -> int:
    """Return the container's limit in bytes; more than any machine has where there is none."""
    limit = cgroup.read_text().strip() if cgroup.exists() else "max"
    return 1 << 62 if limit == "max" else int(limit)
