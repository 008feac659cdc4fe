"""How fast each path of the engine is against the plain network: interleaved, on equal inputs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from model import allocator
from model.config import Config, EnginePath, StreamConfig
from model.engine.engine import Engine, inference_context
from model.engine.memory import peak_resident
from model.engine.parity import ParityLayers
from model.engine.parity_cpu import CPUParityLayers
from model.fused.cpu.network import CPUNetwork
from model.network import SCMRL
from model.network.neuron import LIF

#: Firing of a random network like that of a trained one: batch norms' scale and shift.
_SCALE, _SHIFT = 1.5, 0.4
#: Rounds that are not counted: the first ones fill caches.
_WARM = 2


@dataclass(frozen=True)
class Case:
    """A network and how it is called: time steps T, and whether frames are held for all of them."""

    config: Config
    steps: int
    held: bool


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


CASES: dict[str, Case] = {
    "urbansound8k_av": Case(_published(10, 64), 4, held=True),
    "crema_d": Case(_published(6, 256), 4, held=True),
    "events": Case(_events(), 16, held=False),
}


@dataclass(frozen=True)
class Timing:
    """One path on one batch: median milliseconds a batch over `rounds`, samples a second, and
    how many times as fast as the plain path."""

    path: EnginePath
    batch: int
    milliseconds: float
    samples_s: float
    ratio: float
    rounds: int


def network(case: Case, seed: int = 0) -> SCMRL:
    """A random network whose layers fire, in eval mode.

    Batch norms take their statistics from one batch of noise.
    """
    torch.manual_seed(seed)
    made = SCMRL(case.config)
    norms = [m for m in made.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        nn.init.constant_(norm.weight, _SCALE)
        nn.init.constant_(norm.bias, _SHIFT)
        norm.momentum = None  # the mean over the batches that are seen
    with torch.no_grad():
        made.train()(_repeated(inputs(case, 2, seed), case.steps))
    return made.eval()


def parity_layers(network: SCMRL, path: EnginePath) -> ParityLayers | None:
    """Return the layers of a fused path, to be compared with the plain network; else None."""
    if path == "fused-graphs":
        from model.engine.parity_cuda import CUDAParityLayers
        from model.fused.cuda.network import CUDANetwork

        return CUDAParityLayers(CUDANetwork(network))
    if path in ("plain", "graphs"):
        return None
    int8 = path == "fused-int8"
    return CPUParityLayers(CPUNetwork(network, torch.get_num_threads(), int8=int8))


def inputs(case: Case, batch: int, seed: int) -> dict[str, Tensor]:
    """Random frames [T or 1, B, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    steps = 1 if case.held else case.steps
    return {
        name: torch.randn((steps, batch, s.channels, *s.size), generator=generator)
        for name, s in case.config.streams.items()
    }


def _repeated(frames: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    return {name: x.expand(steps, *x.shape[1:]) for name, x in frames.items()}


def paths(device: str) -> tuple[EnginePath, ...]:
    """How a network can be computed there."""
    return (
        ("plain", "fused", "fused-int8") if device == "cpu" else ("plain", "graphs", "fused-graphs")
    )


def timings(
    case: Case, batches: Sequence[int], seconds: float, device: str = "cpu"
) -> Iterator[Timing]:
    """Each path on each batch size, in turns, for about `seconds` a batch size; the log says why
    where one cannot be taken, which is then left out.

    From inputs in the CPU's memory to outputs there, so that it is what a caller waits for.
    """
    allocator.keep_memory()
    engines = {path: Engine(network(case), device) for path in paths(device)}
    taken = {
        path: engine
        for path, engine in engines.items()
        if path == "plain" or engine.use_fastest([path], case.steps)
    }
    for batch in batches:
        frames = inputs(case, batch, seed=1)
        took: dict[EnginePath, list[float]] = {path: [] for path in taken}
        end = time.perf_counter() + seconds
        rounds = 0
        while rounds < _WARM + 3 or time.perf_counter() < end:
            for path, engine in taken.items():
                # Not timed: what another path leaves behind (threads of OpenMP spin on for a
                # while) is no cost of this one, which in a service comes after itself.
                engine.run(frames, case.steps)
                started = time.perf_counter()
                engine.run(frames, case.steps)
                if rounds >= _WARM:
                    took[path].append(time.perf_counter() - started)
            rounds += 1
        base = statistics.median(took["plain"])
        for path, times in took.items():
            median = statistics.median(times)
            yield Timing(path, batch, 1000 * median, batch / median, base / median, len(times))


def operations(case: Case) -> int:
    """Multiply-accumulates of one sample's convolutions and linear maps, as published: every time
    step and every weight counts, whether or not there is a spike.

    Of frames that are held, the first convolution counts once.
    """
    made = network(case)
    count = 0

    def add(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal count
        weight = layer.weight
        assert isinstance(weight, Tensor)
        count += made.numel() // weight.shape[0] * weight.numel()

    for layer in made.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    with torch.inference_mode():
        made(_repeated(inputs(case, 1, seed=1), case.steps))
    return count


def peak(device: str = "cpu", rounds: int = 20) -> float:
    """Multiply-accumulates a second that a device reaches: a float32 product of matrices (that fit
    a CPU's caches, or fill a GPU), the best of some rounds."""
    side = 1024 if device == "cpu" else 8192
    a, b = (torch.rand(side, side, device=device) for _ in range(2))
    out = torch.empty_like(a)
    return side**3 / _least(lambda: torch.mm(a, b, out=out), device, rounds)


def bandwidth(device: str, rounds: int = 20) -> float:
    """Bytes a second, read and written, of a copy on a GPU, the best of some rounds."""
    source = torch.zeros(2**28, device=device)
    out = torch.empty_like(source)
    return 2 * 4 * 2**28 / _least(lambda: out.copy_(source), device, rounds)


def neurons(device: str, rounds: int = 20) -> float:
    """Bytes a second, currents read and spikes written, of the plain network's neurons on a GPU
    (spikingjelly's): T = 4, on the currents of 64 samples' first layer of 32 channels."""
    current = torch.rand((4, 64, 32, 128, 128), device=device)
    neuron = LIF()
    with inference_context(torch.device(device)):
        return 2 * 4 * current.numel() / _least(lambda: neuron(current), device, rounds)


def _least(work: Callable[[], object], device: str, rounds: int) -> float:
    """Seconds of the fastest of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def memory(name: str, path: EnginePath, batch: int, device: str = "cpu") -> int:
    """Greatest memory, in MiB, of a fresh process that runs a batch three times: what is resident
    of it, or what torch takes of a GPU's."""
    command = [sys.executable, "-m", "model.engine.bench", name, path, str(batch), device]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) // 1024**2


def _run_alone(name: str, path: EnginePath, batch: int, device: str) -> None:
    """What `memory` starts: prints its own greatest memory in bytes."""
    allocator.keep_memory()
    case = CASES[name]
    engine = Engine(network(case), device)
    if path != "plain":
        engine.use_fastest([path], case.steps)
    for _ in range(3):
        engine.run(inputs(case, batch, seed=1), case.steps)
    print(peak_resident() if device == "cpu" else torch.cuda.max_memory_reserved(device))


if __name__ == "__main__":
    _run_alone(sys.argv[1], cast(EnginePath, sys.argv[2]), int(sys.argv[3]), sys.argv[4])
