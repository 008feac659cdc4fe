"""Launches and kernel times of one run on a CUDA device, by kernel and by layer of the fused path.

torch's profiler records them. A run is profiled once, after runs that compile and warm up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from model.config import EnginePath
from model.engine.engine import Engine
from model.engine.plain import inference_context
from model.fused.network import FusedNetwork
from model.network import SCMRL

if TYPE_CHECKING:
    from model.fused.cuda.tiles import Tiles

#: Runs before the one that is profiled.
_WARM_UP = 2
#: Calls of CUDA's runtime and driver that start kernels; one starts all those of a graph.
_LAUNCH = re.compile(r"cu(da)?(GraphLaunch|Launch\w*Kernel\w*)$")
#: Work of a device that is no kernel.
_COPY = ("Memcpy", "Memset")
#: First part of the names of ranges that mark layers in a profile.
_LAYER = "scmrl layer "
#: The layer of kernels between the layers: unpacking, sums, means and the head.
BETWEEN = "between layers"


@dataclass(frozen=True)
class KernelTime:
    """The kernels of one name or layer in a run: how many ran, and their microseconds in all."""

    name: str
    count: int
    microseconds: float


@dataclass(frozen=True)
class KernelTimes:
    """What one run of a path, of a batch of `batch` samples, starts on a CUDA device.

    `launches`: calls that start kernels; a recorded graph takes one. `kernels` and `copies` (of
    memory) by name, those that take longest first. Their times may overlap.
    """

    path: EnginePath
    batch: int
    launches: int
    kernels: list[KernelTime]
    copies: list[KernelTime]


def kernel_times(
    engine: Engine, path: EnginePath, frames: Mapping[str, Tensor], steps: int
) -> KernelTimes:
    """Profile one run of an engine on CUDA, which uses `path`, on frames [T or 1, B, C, H, W] by
    stream."""
    events = _profile(lambda: engine.run(frames, steps), engine.device)
    work = _group(_device_work(events), lambda event: shorten(event.name))
    batch = next(iter(frames.values())).shape[1]
    launches = sum(bool(_LAUNCH.match(event.name)) for event in events)
    return KernelTimes(
        path,
        batch,
        launches,
        kernels=[time for time in work if not time.name.startswith(_COPY)],
        copies=[time for time in work if time.name.startswith(_COPY)],
    )


def layer_times(
    network: SCMRL, frames: Mapping[str, Tensor], steps: int, tiles: Tiles | None = None
) -> list[KernelTime]:
    """Profile one run of the fused path on CUDA, layer by layer, in the order of the layers.

    The layers are not recorded as a graph, and each waits for the one before, so that a kernel
    belongs to the layer it ran in; its time is the same. `frames` [T or 1, B, C, H, W] by stream
    are on the network's device; `tiles` by default the rule's.
    """
    from model.fused.cuda.network import CUDANetwork

    device = network.head.bias.device
    fused = CUDANetwork(network, tiles=tiles)
    mark_layers(fused.fused, lambda: torch.cuda.synchronize(device))
    with inference_context(device):
        events = _profile(lambda: fused(frames, steps, False), device)
    return by_layer(events, _device_work(events))


def mark_layers(fused: FusedNetwork[Any], wait: Callable[[], object]) -> None:
    """Mark the layers of a fused network in profiles; `wait` is called before and after each."""

    def mark(name: str, layer: Callable[..., Any]) -> Any:
        def marked(*arguments: Any) -> Any:
            wait()
            with record_function(_LAYER + name):
                result = layer(*arguments)
                wait()
            return result

        return marked

    for name, patch in fused.patch.items():
        patch.stages[:] = [
            mark(f"{name} stage {index + 1}", stage) for index, stage in enumerate(patch.stages)
        ]
        patch.position = mark(f"{name} position", patch.position)
    for target, residuals in fused.residual.items():
        for source, residual in residuals.items():
            residuals[source] = mark(f"{target} residual of {source}", residual)
    for name, mlp in fused.mlp.items():
        fused.mlp[name] = mark(f"{name} MLP", mlp)


def by_layer(events: Iterable[FunctionEvent], work: Iterable[FunctionEvent]) -> list[KernelTime]:
    """Return the work of each marked layer of a profile, in their order, and that between them.

    Work belongs to the layer during which it began.
    """
    marks = sorted(
        (
            event
            for event in events
            if event.device_type == DeviceType.CPU and event.name.startswith(_LAYER)
        ),
        key=lambda event: event.time_range.start,
    )
    layers: dict[str, list[FunctionEvent]] = {
        name: [] for name in [*(mark.name.removeprefix(_LAYER) for mark in marks), BETWEEN]
    }
    for event in work:
        start = event.time_range.start
        within = (m for m in marks if m.time_range.start <= start <= m.time_range.end)
        mark = next(within, None)
        layers[mark.name.removeprefix(_LAYER) if mark else BETWEEN].append(event)
    return [_sum(name, of_layer) for name, of_layer in layers.items()]


def shorten(name: str) -> str:
    """Return a kernel's name without the types and arguments of its C++ template."""
    if name.startswith(_COPY):
        return name
    plain = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    return re.split(r"[<(]", plain, maxsplit=1)[0] or name


def _profile(run: Callable[[], object], device: torch.device) -> Sequence[FunctionEvent]:
    """Return the events of one run: the device's work, and the calls and marks of the CPU."""
    for _ in range(_WARM_UP):
        run()
    torch.cuda.synchronize(device)
    # Marks are events of the CPU.
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities, acc_events=True) as profiled:
        run()
        torch.cuda.synchronize(device)
    return cast(Sequence[FunctionEvent], profiled.events())


def _device_work(events: Iterable[FunctionEvent]) -> list[FunctionEvent]:
    """Return kernels and copies; marks that the profiler repeats for the device are no work."""
    return [
        event
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]


def _group(
    events: Iterable[FunctionEvent], name: Callable[[FunctionEvent], str]
) -> list[KernelTime]:
    """Return the sums of the events of each name, the longest first."""
    groups: dict[str, list[FunctionEvent]] = {}
    for event in events:
        groups.setdefault(name(event), []).append(event)
    times = [_sum(key, group) for key, group in groups.items()]
    return sorted(times, key=lambda time: -time.microseconds)


def _sum(name: str, events: Sequence[FunctionEvent]) -> KernelTime:
    microseconds = sum(event.time_range.elapsed_us() for event in events)
    return KernelTime(name, len(events), microseconds)
