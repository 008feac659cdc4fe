"""Choose a batch size by the number of clips and the free memory."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.network import SCMRL
from model.training.options import MIN_BATCH, TrainOptions
from model.training.training_card import network_config

#: Largest batch that is chosen: beyond it, two cores gain nothing.
LARGEST = 50
#: Steps that an epoch has at least, as far as the number of clips allows.
MIN_STEPS = 8
#: Share of the free memory that a batch may take. Gradients' temporaries and the allocator take
#: up to as much again.
MEMORY_SHARE = 0.4


def choose_batch_size(options: TrainOptions, device: torch.device) -> int:
    """Return the largest batch size that fits the clips of an epoch and the free memory."""
    by_clips = min(LARGEST, options.clips // MIN_STEPS)
    by_memory = int(MEMORY_SHARE * free_bytes(device) / bytes_per_clip(options))
    return max(MIN_BATCH, min(by_clips, by_memory))


def bytes_per_clip(options: TrainOptions) -> int:
    """Return what a clip of T steps keeps in memory until the backward pass, in bytes.

    Measured with two clips of zeros; torch's random numbers stay as they were.
    """
    saved_bytes: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if x.is_mkldnn:  # a tensor of oneDNN has no storage, and no other shares its memory
            saved_bytes[id(x)] = x.numel() * x.element_size()
        else:
            saved_bytes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.random.fork_rng(devices=[]):
        network = SCMRL(network_config(options))
    clips = 2
    inputs = {
        name: torch.zeros(options.steps, clips, spec.channels, *spec.size)
        for name, spec in options.task.specs.items()
    }
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = cross_entropy(network(inputs).logits, torch.zeros(clips, dtype=torch.long))
    weights = {x.untyped_storage().data_ptr() for x in network.parameters()}
    del loss
    return max(1, sum(size for at, size in saved_bytes.items() if at not in weights) // clips)


def free_bytes(device: torch.device) -> int:
    """Return the free memory of the device, or of this machine or its cgroup, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_meminfo("MemAvailable")]
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        cached = dict(x.split() for x in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free[0]
    if limit.isdecimal():
        free.append(int(limit) - used + int(cached.get("inactive_file", 0)))
    return max(0, min(free))


def _meminfo(name: str) -> int:
    """Return an entry of /proc/meminfo in bytes; 4 GiB where there is no such file."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(f"{name}:"))
    except (OSError, StopIteration, ValueError):
        return 4 << 30
