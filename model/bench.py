"""How fast each path of the engine is against the plain network: interleaved, on equal inputs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model import allocator
from model.config import Config, StreamConfig
from model.engine import Engine, Path
from model.memory import greatest_resident
from model.network import SCMRL

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

    path: Path
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


def timings(case: Case, batches: Sequence[int], seconds: float) -> Iterator[Timing]:
    """Each path on each batch size, in turns, for about `seconds` a batch size."""
    allocator.keep_memory()
    plain, fused, int8 = (Engine(network(case), "cpu") for _ in range(3))
    if not fused.fuse() or not int8.fuse("int8"):
        raise RuntimeError("the fused path disagrees with the plain one")
    paths: dict[Path, Engine] = {"plain": plain, "fused": fused, "fused-int8": int8}
    for batch in batches:
        frames = inputs(case, batch, seed=1)
        took: dict[Path, list[float]] = {path: [] for path in paths}
        end = time.perf_counter() + seconds
        rounds = 0
        while rounds < _WARM + 3 or time.perf_counter() < end:
            for path, engine in paths.items():
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


def peak(rounds: int = 20) -> float:
    """Multiply-accumulates a second that this machine reaches: a float32 product of matrices that
    fit its caches, the best of some rounds."""
    side = 1024
    a, b = torch.rand(side, side), torch.rand(side, side)
    out = torch.empty(side, side)
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - started)
    return float(side**3 / best)


def memory(name: str, path: Path, batch: int) -> int:
    """Greatest resident memory, in MiB, of a fresh process that runs a batch three times."""
    command = [sys.executable, "-m", "model.bench", name, path, str(batch)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) // 1024**2


def _run_alone(name: str, path: str, batch: int) -> None:
    """What `memory` starts: prints its own greatest resident memory in bytes."""
    allocator.keep_memory()
    case = CASES[name]
    engine = Engine(network(case), "cpu")
    if path != "plain":
        engine.fuse("int8" if path == "fused-int8" else "float32")
    for _ in range(3):
        engine.run(inputs(case, batch, seed=1), case.steps)
    print(greatest_resident())


if __name__ == "__main__":
    _run_alone(sys.argv[1], sys.argv[2], int(sys.argv[3]))
