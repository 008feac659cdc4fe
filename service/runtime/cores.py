"""How many CPU cores this process may use: the one place that decides thread counts."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

log = logging.getLogger("scmrl.cores")

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def available(v2: Path = _CGROUP_V2, v1: Path = _CGROUP_V1) -> int:
    """Cores that the scheduler and the container's quota leave to this process, at least 1.

    os.cpu_count() is the machine's; a container limited to 2 of 64 cores would start 64
    threads that fight for 2.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota(v2, v1)
    return max(1, min(cores or 1, math.ceil(quota) if quota else cores or 1))


def threads(count: int) -> int:
    """How many compute a network; 0 takes the available cores."""
    return count or int(os.environ.get("OMP_NUM_THREADS") or 0) or available()


def set_threads(count: int) -> None:
    """Set the threads of torch where it is not the network that is computed."""
    import torch

    torch.set_num_threads(count)
    log.debug("threads of torch: %d", count)


def set_opencv_threads() -> None:
    """Give OpenCV one: what it has to do is small, and decoding has processes of its own."""
    import cv2

    cv2.setNumThreads(1)


def _quota(v2: Path, v1: Path) -> float | None:
    """The cgroup's CPU quota in cores; None where there is none."""
    try:
        if v2.exists():
            quota, period = v2.read_text().split()
        else:
            quota = (v1 / "cpu.cfs_quota_us").read_text().strip()
            period = (v1 / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
