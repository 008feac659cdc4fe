"""Names of devices, as options and settings have them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CHOICES = "auto, cpu, cuda (each CUDA device) or cuda:N (one of them)"
_NAME = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


class DeviceError(RuntimeError):
    """No such device; the message says what can be chosen."""


def check_name(name: str) -> str:
    """The name, where it could be one of a device. Raises DeviceError."""
    if not _NAME.fullmatch(name):
        raise DeviceError(f"there is no device {name[:50]!r}; can be {CHOICES}")
    return name


def find(name: str) -> torch.device:
    """The device: for "auto" CUDA where it is there, or else the CPU.

    Raises DeviceError where it is not there.
    """
    import torch

    check_name(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not count:
        raise DeviceError(
            f"device {name}: this machine (or this build of torch) has no CUDA; can be auto or cpu"
        )
    if device.index is not None and device.index >= count:
        there = ", ".join(f"cuda:{index}" for index in range(count))
        raise DeviceError(f"device {name} is not there; can be auto, cpu, cuda, {there}")
    return device
