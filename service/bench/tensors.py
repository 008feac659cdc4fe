"""Speed of preprocessed tensors: by the engine alone, through the queue, and as whole answers."""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from model.arrays import Float32Array
from model.config import Config
from model.engine.inputs import stack_clips
from service.classification import pipeline
from service.classification.options import Options
from service.classification.pipeline import Backend, Call
from service.classification.upload_fields import InputFiles
from service.decoding.job import DecodeRequest, DecodeResult
from service.inference import served_model
from service.inference.served_model import ServedModel
from service.settings import Settings

#: Clips whose tensors are used, in turn; requests that are in flight, in batches.
_CLIPS, _BATCHES_IN_FLIGHT = 16, 4

Clip = Mapping[str, Float32Array]


@dataclass(frozen=True)
class TensorSpeed:
    """Clips/s, medians of the rounds, at batches of at most `max_batch`.

    Attributes:
        engine: The engine of the first device alone, in full batches.
        queue: Through slots and queue, as many requests in flight as four batches have.
        answers: The same with the whole answer: calibration, contributions, schema.
    """

    max_batch: int
    engine: float
    queue: float
    answers: float


def measure(weights: Path, device: str, max_batch: int, seconds: float, rounds: int) -> TensorSpeed:
    """Measure each way in turns, for `seconds` a round. Raises CheckpointError, RuntimeError."""
    settings = Settings.model_construct(
        device=device, max_batch=max_batch, max_wait_s=math.inf, queue_length=sys.maxsize
    )
    processes = served_model.make_processes(settings)
    try:
        model = served_model.load(weights, settings, processes)
        for engine in model.engines:
            engine.fuse(steps=model.card.steps)
        served_model.warm(model)
        return _measure(model, max_batch, seconds, rounds)
    finally:
        processes.stop()


def _measure(model: ServedModel, max_batch: int, seconds: float, rounds: int) -> TensorSpeed:
    model.batcher.start()
    clips = make_clips(model.card.config)
    ways: tuple[Callable[[], float], ...] = (
        lambda: _engine_rate(model, clips, seconds),
        lambda: asyncio.run(_rate(model, _through_queue(model, clips), seconds)),
        lambda: asyncio.run(_rate(model, _as_answers(model, clips), seconds)),
    )
    try:
        rates = [[way() for way in ways] for _ in range(rounds + 1)][1:]  # the first fills caches
    finally:
        model.batcher.stop()
    return TensorSpeed(max_batch, *map(statistics.median, zip(*rates, strict=True)))


def make_clips(config: Config) -> list[Clip]:
    """Return clips of noise for a network, float32 [1, C, H, W] by stream."""
    generator = np.random.default_rng(0)
    shapes = {name: (1, stream.channels, *stream.size) for name, stream in config.streams.items()}
    return [
        {name: generator.random(shape, np.float32) for name, shape in shapes.items()}
        for _ in range(_CLIPS)
    ]


def _engine_rate(model: ServedModel, clips: list[Clip], seconds: float) -> float:
    """Return the clips/s of an engine in full batches. Stacking them is part of the time, as it is
    for a batch of the queue."""
    engine = model.engines[0]
    batch = [clips[number % len(clips)] for number in range(engine.max_batch)]
    started, clips_run = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        engine.run(stack_clips(batch, engine.allocate), steps=model.card.steps)
        clips_run += len(batch)
    return clips_run / elapsed


async def _rate(
    model: ServedModel, run: Callable[[int], Awaitable[object]], seconds: float
) -> float:
    """Return the clips/s of requests that follow each other, in a closed loop."""
    in_flight = _BATCHES_IN_FLIGHT * sum(engine.max_batch for engine in model.engines)
    numbers, started = count(), time.perf_counter()

    async def client() -> int:
        clips_run = 0
        while time.perf_counter() - started < seconds:
            await run(next(numbers))
            clips_run += 1
        return clips_run

    clips_run = sum(await asyncio.gather(*(client() for _ in range(in_flight))))
    return clips_run / (time.perf_counter() - started)


def _through_queue(model: ServedModel, clips: list[Clip]) -> Callable[[int], Awaitable[object]]:
    async def run(number: int) -> object:
        async with model.slot() as slot:
            return await slot.run(clips[number % len(clips)], model.card.steps)

    return run


def _as_answers(model: ServedModel, clips: list[Clip]) -> Callable[[int], Awaitable[object]]:
    options = Options(attention="none")

    async def run(number: int) -> object:
        async with model.slot() as slot:
            backend = Backend(model.name, model.card, _refuse_files, slot.run)
            clip = clips[number % len(clips)]
            return await pipeline.classify_tensors(clip, options, backend, Call())

    return run


async def _refuse_files(files: InputFiles, request: DecodeRequest) -> DecodeResult:
    raise AssertionError("tensors are not decoded")
