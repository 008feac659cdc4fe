"""Resolve names of devices, as in options and settings, to torch devices."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CHOICES = "auto, cpu, cuda (each CUDA device) or cuda:N (one of them)"
_NAME = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


class DeviceError(RuntimeError):
    """The device does not exist. The message lists the valid names."""


def check_name(name: str) -> str:
    """Return `name` if its syntax is valid. Raises DeviceError. Does not import torch."""
    if not _NAME.fullmatch(name):
        raise DeviceError(f"no such device: {name[:50]!r}; choose {CHOICES}")
    return name


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; for "auto", CUDA if available and else the CPU.

    Raises DeviceError if this machine does not have the device.
    """
    import torch

    check_name(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not count:
        raise DeviceError(
            f"device {name}: this machine (or this build of torch) has no CUDA; choose auto or cpu"
        )
    if device.index is not None and device.index >= count:
        devices = ", ".join(f"cuda:{index}" for index in range(count))
        raise DeviceError(f"no such device: {name}; choose auto, cpu, cuda, {devices}")
    return device


def supports_bfloat16(device: torch.device) -> bool:
    """Return whether `device` computes in bfloat16 in hardware.

    An x86 CPU needs AVX-512; without it, PyTorch's bfloat16 is 8 times as slow as its float32.
    """
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    values = torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16)
    try:
        torch.nn.functional.max_pool2d(values.to_mkldnn(), 2)  # oneDNN refuses where it is emulated
    except RuntimeError:
        return False
    return True
