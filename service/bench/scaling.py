"""How cost grows: with T, the batch, the clip's length and the number of clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from model import checkpoint
from model.engine import Engine
from service.bench import load, servers
from service.bench.clips import ClipSpec, render_clip
from service.bench.stopwatch import median_ms, seconds
from service.classification.inputs import InputFiles
from service.decoding.files import decode
from service.decoding.job import DecodeRequest

STEPS = (1, 2, 4, 8, 16)
BATCHES = (1, 2, 4, 8, 16, 32)
SECONDS = (1, 2, 5, 10, 20, 40)
CLIENTS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Growth:
    """`values` of what is `measured` at each of `at`; a line through them rises by `slope` for
    one more of `over`, from `offset`."""

    over: str
    measured: str
    at: tuple[float, ...]
    values: tuple[float, ...]
    slope: float
    offset: float


def over_steps(engine: Engine, rounds: int) -> Growth:
    """Milliseconds of one clip over T."""
    values = [_median_ms(partial(_run, engine, 1, t), rounds) for t in STEPS]
    return _growth("time step", "ms of inference", STEPS, values)


def over_batch(engine: Engine, steps: int, rounds: int) -> Growth:
    """Milliseconds of one batch over its size."""
    values = [_median_ms(partial(_run, engine, b, steps), rounds) for b in BATCHES]
    return _growth("clip of the batch", "ms of inference", BATCHES, values)


def over_length(wanted: DecodeRequest, rounds: int) -> Growth:
    """Milliseconds of decoding and preprocessing over the clip's length."""
    spec = ClipSpec("480p mp4", "mp4", "libx264", "aac", 480, 640, 1)
    values = []
    for length in SECONDS:
        files = InputFiles(clip=render_clip(replace(spec, seconds=length)))
        values.append(_median_ms(partial(decode, files, wanted), rounds))
    return _growth("second of the clip", "ms of decoding", SECONDS, values)


def over_served_steps(weights: Path, seconds: float) -> Growth:
    """Clips a second that the service answers at most, over T."""
    with servers.scmrl(weights) as server:
        load.warm(server.url, load.bodies())
        most = [
            asyncio.run(
                load.closed(server.url, load.bodies(steps=t), load.BUSY, seconds)
            ).answered_s
            for t in STEPS
        ]
    return _growth("time step", "clips a second", STEPS, most)


def over_clients(weights: Path, seconds: float) -> tuple[Growth, Growth]:
    """Clips a second, and their median latency (ms), over the number of clients."""
    forms = load.bodies()
    with servers.scmrl(weights) as server:
        load.warm(server.url, forms)
        seen = [
            asyncio.run(load.closed(server.url, forms, clients, seconds)) for clients in CLIENTS
        ]
    return (
        _growth("client", "clips a second", CLIENTS, [one.answered_s for one in seen]),
        _growth("client", "ms of latency (median)", CLIENTS, [one.p50_ms for one in seen]),
    )


def engine_of(weights: Path) -> tuple[Engine, DecodeRequest, int]:
    """A checkpoint's engine on its fastest path, what it wants of a clip, and its T."""
    network, card = checkpoint.load(weights)
    engine = Engine(network)
    engine.fuse()
    return engine, DecodeRequest.from_card(card, card.steps, canvas=False), card.steps


def _run(engine: Engine, batch: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.rand((1, batch, stream.channels, *stream.size), generator=generator)
        for name, stream in engine.config.streams.items()
    }
    engine.run(inputs, steps=steps)


def _median_ms(work: Callable[[], object], rounds: int) -> float:
    return median_ms([seconds(work) for _ in range(rounds + 1)])


def _growth(over: str, measured: str, at: Sequence[float], values: Sequence[float]) -> Growth:
    slope, offset = np.polyfit(at, values, 1)
    return Growth(over, measured, tuple(at), tuple(values), float(slope), float(offset))
