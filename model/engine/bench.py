"""Benchmarks of the engine's paths against the plain network, in turns, on equal inputs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from model import allocator
from model.config import Config, EnginePath, StreamConfig
from model.engine.engine import Engine
from model.engine.inputs import hold
from model.engine.memory import peak_resident
from model.engine.parity import ParityLayers
from model.engine.parity_cpu import CPUParityLayers
from model.engine.plain import inference_context
from model.fused.cpu import onednn
from model.fused.cpu.network import CPUNetwork
from model.module_command import module_command
from model.network import SCMRL
from model.network.neuron import LIF

if TYPE_CHECKING:
    from model.fused.cuda.tiles import Tiles

#: Scale and shift of batch norms with which a random network fires as a trained one does.
_SCALE, _SHIFT = 1.5, 0.4
#: Seconds for which a path runs before it is timed.
_SETTLE_S = 0.03
#: Rounds that are not measured: they fill caches.
_WARM_UP = 2


@dataclass(frozen=True)
class Case:
    """A network and its inputs.

    `steps`: time steps T. `held`: streams whose one frame is repeated for all of them.
    """

    config: Config
    steps: int
    held: frozenset[str]


def _published(classes: int, embed_dim: int) -> Config:
    return Config(
        streams={
            "audio": StreamConfig(channels=1, size=(128, 128)),
            "visual": StreamConfig(channels=3, size=(128, 128)),
        },
        classes=classes,
        embed_dim=embed_dim,
    )


def _events() -> Config:
    audio, visual = (
        StreamConfig(channels=channels, size=(28, 28), splitting="shallow") for channels in (1, 2)
    )
    return Config(streams={"audio": audio, "visual": visual}, classes=10, embed_dim=64)


_PUBLISHED_STREAMS = frozenset({"audio", "visual"})
CASES: dict[str, Case] = {
    "urbansound8k_av": Case(_published(10, 64), 4, _PUBLISHED_STREAMS),
    "crema_d": Case(_published(6, 256), 4, _PUBLISHED_STREAMS),
    "events": Case(_events(), 16, frozenset()),
}


@dataclass(frozen=True)
class Timing:
    """One path at one batch size: median milliseconds per batch over `rounds`, samples per second,
    and the speed-up over the plain path."""

    path: EnginePath
    batch: int
    milliseconds: float
    samples_s: float
    ratio: float
    rounds: int


def moving(case: Case) -> Case:
    """Return the case with one picture per time step; sound is held as before."""
    return replace(case, held=case.held - {"visual"})


def network(case: Case, seed: int = 0) -> SCMRL:
    """Return a random network whose layers fire, in eval mode.

    The statistics of batch norms are those of one batch of noise.
    """
    torch.manual_seed(seed)
    random = SCMRL(case.config)
    norms = [m for m in random.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        nn.init.constant_(norm.weight, _SCALE)
        nn.init.constant_(norm.bias, _SHIFT)
        norm.momentum = None  # statistics are the mean over batches
    with torch.no_grad():
        random.train()(hold(inputs(case, 2, seed), case.steps))
    return random.eval()


def parity_layers(
    network: SCMRL, path: EnginePath, tiles: Tiles | None = None
) -> ParityLayers | None:
    """Return the layers of a fused path, to be compared with the plain network; else None.

    `tiles`: of its layers on CUDA, by default the rule's.
    """
    if path in ("fused-graphs", "fused-half-graphs"):
        from model.engine.parity_cuda import CUDAParityLayers
        from model.fused.cuda.network import CUDANetwork

        half = path == "fused-half-graphs"
        return CUDAParityLayers(CUDANetwork(network, half=half, tiles=tiles))
    if path in ("plain", "graphs"):
        return None
    int8 = path == "fused-int8"
    return CPUParityLayers(CPUNetwork(network, torch.get_num_threads(), int8=int8))


def inputs(case: Case, batch: int, seed: int) -> dict[str, Tensor]:
    """Return random frames [T or 1, B, C, H, W] by stream."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(
            (1 if name in case.held else case.steps, batch, s.channels, *s.size),
            generator=generator,
        )
        for name, s in case.config.streams.items()
    }


def paths(device: str) -> tuple[EnginePath, ...]:
    """Return the paths that a kind of device has."""
    if device == "cpu":
        return "plain", "fused", "fused-int8"
    return "plain", "graphs", "fused-graphs", "fused-half-graphs"


def engines(network: SCMRL, steps: int, device: str = "cpu") -> dict[EnginePath, Engine]:
    """Return an engine of each path that a device can use, with a copy of the network.

    A path that cannot be used is omitted; the log has the reason.
    """
    allocator.keep_memory()
    made = {path: Engine(deepcopy(network), device) for path in paths(device)}
    return {
        path: engine
        for path, engine in made.items()
        if path == "plain" or engine.use_fastest([path], steps)
    }


def timings(
    usable: Mapping[EnginePath, Engine],
    steps: int,
    inputs: Callable[[int], dict[str, Tensor]],
    batches: Sequence[int],
    seconds: float,
) -> Iterator[Timing]:
    """Time each engine at each batch size, in turns, for about `seconds` per batch size.

    `inputs` returns the frames [T or 1, B, C, H, W] of a batch of B samples. Times include the
    copies between the CPU's memory and the device.
    """
    for batch in batches:
        frames = inputs(batch)
        seconds_of: dict[EnginePath, list[float]] = {path: [] for path in usable}
        end = time.perf_counter() + seconds
        rounds = 0
        while rounds < _WARM_UP + 3 or time.perf_counter() < end:
            for path, engine in usable.items():
                _settle(engine, frames, steps)
                started = time.perf_counter()
                engine.run(frames, steps)
                if rounds >= _WARM_UP:
                    seconds_of[path].append(time.perf_counter() - started)
            rounds += 1
        base = statistics.median(seconds_of["plain"])
        for path, times in seconds_of.items():
            median = statistics.median(times)
            yield Timing(path, batch, 1000 * median, batch / median, base / median, len(times))


def _settle(engine: Engine, frames: Mapping[str, Tensor], steps: int) -> None:
    """Run a path until the OpenMP threads of the previous one, which spin for a while after it, are
    asleep: in a service, which has one path, they do not compete with it."""
    end = time.perf_counter() + _SETTLE_S
    engine.run(frames, steps)
    while time.perf_counter() < end:
        engine.run(frames, steps)


def operations(case: Case) -> int:
    """Return the multiply-accumulates of one sample's convolutions and linear layers, as published.

    Every time step and weight counts, with or without a spike; the first convolution of held frames
    counts once.
    """
    plain = network(case)
    count = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal count
        weight = layer.weight
        assert isinstance(weight, Tensor)
        count += output.numel() // weight.shape[0] * weight.numel()

    for layer in plain.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    with torch.inference_mode():
        plain(hold(inputs(case, 1, seed=1), case.steps))
    return count


def peak(device: str = "cpu", rounds: int = 20) -> float:
    """Return the multiply-accumulates per second of a float32 matrix product, the best of some
    rounds: oneDNN's of matrices that fit a CPU's caches, or one that fills a GPU."""
    side = 1024 if device == "cpu" else 8192
    a, b = (torch.rand(side, side, device=device) for _ in range(2))
    if device == "cpu":
        multiply = onednn.linear(b, torch.zeros(side))
        with torch.inference_mode():
            return side**3 / _min_seconds(lambda: multiply(a), device, rounds)
    out = torch.empty_like(a)
    return side**3 / _min_seconds(lambda: torch.mm(a, b, out=out), device, rounds)


def bandwidth(device: str, rounds: int = 20) -> float:
    """Return bytes per second, read and written, of a copy on a GPU, the best of some rounds."""
    source = torch.zeros(2**28, device=device)
    out = torch.empty_like(source)
    return 2 * 4 * 2**28 / _min_seconds(lambda: out.copy_(source), device, rounds)


def neurons(device: str, rounds: int = 20) -> float:
    """Return bytes per second, currents read and spikes written, of spikingjelly's neurons on CUDA:
    T = 4, currents of 64 samples' first layer of 32 channels."""
    current = torch.rand((4, 64, 32, 128, 128), device=device)
    neuron = LIF()
    with inference_context(torch.device(device)):
        return 2 * 4 * current.numel() / _min_seconds(lambda: neuron(current), device, rounds)


def _min_seconds(work: Callable[[], object], device: str, rounds: int) -> float:
    """Return the seconds of the fastest of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def memory(
    name: str, path: EnginePath, batch: int, device: str = "cpu", *, moves: bool = False
) -> int:
    """Return the peak memory, in MiB, of a new process that runs a batch three times: its resident
    memory, or what torch reserves of a GPU's. `moves`: the case is that of `moving`."""
    pictures = "moving" if moves else "held"
    command = module_command("model.engine.bench", name, path, batch, device, pictures)
    completed = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(completed.stdout) // 1024**2


def _run_alone(name: str, path: EnginePath, batch: int, device: str, pictures: str) -> None:
    """Print this process's peak memory in bytes, for `memory`."""
    allocator.keep_memory()
    case = CASES[name]
    engine = Engine(network(case), device)
    if path != "plain":
        engine.use_fastest([path], case.steps)
    frames = inputs(moving(case) if pictures == "moving" else case, batch, seed=1)
    for _ in range(3):
        engine.run(frames, case.steps)
    print(peak_resident() if device == "cpu" else torch.cuda.max_memory_reserved(device))


if __name__ == "__main__":
    _run_alone(sys.argv[1], cast(EnginePath, sys.argv[2]), int(sys.argv[3]), *sys.argv[4:6])
