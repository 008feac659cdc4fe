"""How cost scales with T, batch size, clip length and number of clients."""

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
from service.bench.stopwatch import median_ms, time_call
from service.classification.upload_fields import InputFiles
from service.decoding.files import decode
from service.decoding.job import DecodeRequest

STEPS = (1, 2, 4, 8, 16)
BATCHES = (1, 2, 4, 8, 16, 32)
SECONDS = (1, 2, 5, 10, 20, 40)
CLIENTS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Scaling:
    """A quantity as a function of a variable, with a straight line fitted to it.

    `values` of `quantity` (with its unit) at each of the `points` of `variable`, approximately
    `offset` + `slope` * point.
    """

    variable: str
    quantity: str
    points: tuple[float, ...]
    values: tuple[float, ...]
    slope: float
    offset: float


def over_steps(engine: Engine, rounds: int) -> Scaling:
    """Time the inference of one clip for several T."""
    values = [_median_ms(partial(_run, engine, 1, t), rounds) for t in STEPS]
    return _fit("time step", "inference, ms", STEPS, values)


def over_batch(engine: Engine, steps: int, rounds: int) -> Scaling:
    """Time the inference of a batch for several sizes."""
    values = [_median_ms(partial(_run, engine, b, steps), rounds) for b in BATCHES]
    return _fit("clip in the batch", "inference, ms", BATCHES, values)


def over_length(request: DecodeRequest, rounds: int) -> Scaling:
    """Time decoding and preprocessing for several clip lengths."""
    spec = ClipSpec("480p mp4", "mp4", "libx264", "aac", 480, 640, 1)
    values = []
    for length in SECONDS:
        files = InputFiles(clip=render_clip(replace(spec, seconds=length)))
        values.append(_median_ms(partial(decode, files, request), rounds))
    return _fit("second of clip", "decoding, ms", SECONDS, values)


def over_served_steps(weights: Path, seconds: float) -> Scaling:
    """Measure the peak throughput of the service for several T."""
    with servers.run_scmrl(weights) as server:
        load.warm_up(server.url, load.build_forms())
        throughputs = [
            asyncio.run(
                load.run_closed_loop(
                    server.url, load.build_forms(steps=t), load.SATURATING_CLIENTS, seconds
                )
            ).answered_per_s
            for t in STEPS
        ]
    return _fit("time step", "clips/s", STEPS, throughputs)


def over_clients(weights: Path, seconds: float) -> tuple[Scaling, Scaling]:
    """Measure throughput and median latency for several numbers of clients."""
    forms = load.build_forms()
    with servers.run_scmrl(weights) as server:
        load.warm_up(server.url, forms)
        results = [
            asyncio.run(load.run_closed_loop(server.url, forms, clients, seconds))
            for clients in CLIENTS
        ]
    return (
        _fit("client", "clips/s", CLIENTS, [result.answered_per_s for result in results]),
        _fit("client", "median latency, ms", CLIENTS, [result.p50_ms for result in results]),
    )


def load_engine(weights: Path) -> tuple[Engine, DecodeRequest, int]:
    """Load a checkpoint: its fused engine, its decode request, and its T."""
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
    return median_ms([time_call(work) for _ in range(rounds + 1)])


def _fit(variable: str, quantity: str, points: Sequence[float], values: Sequence[float]) -> Scaling:
    slope, offset = np.polyfit(points, values, 1)
    return Scaling(variable, quantity, tuple(points), tuple(values), float(slope), float(offset))
