"""Profiles by kernel and layer: of CPU runs, whose operations stand in for a GPU's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from model.engine.bench import CASES, engines, inputs, network
from model.engine.kernel_times import (
    BETWEEN,
    _device_work,
    _group,
    by_layer,
    kernel_times,
    layer_times,
    mark_layers,
    shorten,
)
from model.fused.cpu.network import CPUNetwork

#: Layers of the fused path of "events", in the order in which they run.
LAYERS = [
    *("audio stage 1", "audio stage 2", "audio position"),
    *("visual stage 1", "visual stage 2", "visual position"),
    *("audio residual of visual", "audio MLP", "visual residual of audio", "visual MLP"),
]


def profile_marked_layers() -> Sequence[FunctionEvent]:
    """The events of one sample through the fused layers of a CPU, in this thread."""
    case = CASES["events"]
    fused = CPUNetwork(network(case), 1).fused
    waits: list[None] = []
    mark_layers(fused, lambda: waits.append(None))
    frames = {name: x[:, 0] for name, x in inputs(case, 1, seed=1).items()}
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], acc_events=True) as run:
        tokens = {name: patch(frames[name], case.steps) for name, patch in fused.patch.items()}
        streams = {name: fused.stream(name, tokens, case.steps, False) for name in frames}
        torch.stack([stream.features for stream in streams.values()])
    assert len(waits) == 2 * len(LAYERS), "each layer waits for what was launched before and in it"
    events: Sequence[FunctionEvent] = run.events()
    return events


@pytest.fixture(scope="module")
def events() -> Sequence[FunctionEvent]:
    return profile_marked_layers()


def test_work_belongs_to_the_layer_that_it_runs_in(events: Sequence[FunctionEvent]) -> None:
    work = [event for event in events if event.name.startswith("aten::")]
    layers = by_layer(events, work)
    assert [layer.name for layer in layers] == [*LAYERS, BETWEEN]
    assert sum(layer.count for layer in layers) == len(work)
    for layer in layers:
        inside = [event for event in work if _is_within(event, f"scmrl layer {layer.name}")]
        if layer.name != BETWEEN:
            assert layer.count == len(inside) > 0
            assert layer.microseconds == pytest.approx(
                sum(event.time_range.elapsed_us() for event in inside)
            )
    stacked = by_layer(events, [event for event in work if event.name == "aten::stack"])
    assert stacked[-1].count == 1, "what follows the layers is of none"


def _is_within(event: FunctionEvent, name: str) -> bool:
    """Whether a range of this name is among an event's parents, as torch finds them."""
    parent = event.cpu_parent
    return parent is not None and (parent.name == name or _is_within(parent, name))


def test_work_is_summed_by_name_the_longest_first(events: Sequence[FunctionEvent]) -> None:
    groups = _group(events, lambda event: event.name)
    times = [group.microseconds for group in groups]
    assert times == sorted(times, reverse=True)
    averages = {average.key: average.count for average in events.key_averages()}  # type: ignore[attr-defined]
    assert {group.name: group.count for group in groups} == averages


def test_a_cpu_run_has_no_work_of_a_gpu(events: Sequence[FunctionEvent]) -> None:
    assert events
    assert {event.device_type for event in events} == {DeviceType.CPU}
    assert _device_work(events) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fire", "fire"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, "
            "std::array<char*, 1ul> >(int, at::native::FillFunctor<float>, std::array<char*, 1ul>)",
            "at::native::vectorized_elementwise_kernel",
        ),
        (
            "void at::native::(anonymous namespace)::max_pool_forward_nchw<float>(long, float*)",
            "at::native::max_pool_forward_nchw",
        ),
        ("Memcpy HtoD (Pinned -> Device)", "Memcpy HtoD (Pinned -> Device)"),
    ],
)
def test_a_name_is_that_of_the_kernel_without_its_types(name: str, expected: str) -> None:
    assert shorten(name) == expected


@pytest.mark.cuda
def test_launches_and_kernels_of_a_gpu_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    # Without the tiles that other tests have measured: some pool in the kernel of their layer.
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    case = CASES["events"]
    plain = network(case)
    frames = inputs(case, 1, seed=1)
    measured = {
        path: kernel_times(engine, path, frames, case.steps)
        for path, engine in engines(plain, case.steps, "cuda").items()
    }
    counts = {path: sum(k.count for k in times.kernels) for path, times in measured.items()}
    assert measured["plain"].launches >= counts["plain"] * 0.9, "each kernel is launched"
    for path in ("graphs", "fused-graphs"):
        assert measured[path].launches < 5, "a graph is launched once, beside copies of inputs"
        assert counts[path] > 20
    assert {"fire", "pool"} <= {kernel.name for kernel in measured["fused-graphs"].kernels}
    assert measured["plain"].copies, "inputs come from the CPU"


@pytest.mark.cuda
def test_each_layer_of_a_gpu_has_its_kernels() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    case = CASES["events"]
    frames = {name: x.to("cuda") for name, x in inputs(case, 1, seed=1).items()}
    layers = layer_times(network(case).to("cuda"), frames, case.steps)
    assert [layer.name for layer in layers] == [*LAYERS, BETWEEN]
    for layer in layers[:-1]:
        assert layer.count > 0
        assert layer.microseconds > 0
