"""The CPU cores of this process, and the numbers of threads."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

log = logging.getLogger("scmrl.cores")

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def available(v2: Path = _CGROUP_V2, v1: Path = _CGROUP_V1) -> int:
    """Return the cores that affinity and the cgroup's quota allow, at least 1.

    os.cpu_count() counts the machine's: a container limited to 2 of 64 cores would start 64
    threads on 2 cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota(v2, v1)
    return max(1, min(cores or 1, math.ceil(quota) if quota else cores or 1))


def threads(count: int) -> int:
    """Return the number of threads that run a network; for 0, one for each available core."""
    return count or int(os.environ.get("OMP_NUM_THREADS") or 0) or available()


def set_threads(count: int) -> None:
    """Set torch's threads for work outside the network."""
    import torch

    torch.set_num_threads(count)
    log.debug("torch uses %d threads", count)


def set_opencv_threads() -> None:
    """Give OpenCV one thread: its work here is small, and decoding has its own processes."""
    import cv2

    cv2.setNumThreads(1)


def _quota(v2: Path, v1: Path) -> float | None:
    """Return the cgroup's CPU quota in cores, None without one."""
    try:
        if v2.exists():
            quota, period = v2.read_text().split()
        else:
            quota = (v1 / "cpu.cfs_quota_us").read_text().strip()
            period = (v1 / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
