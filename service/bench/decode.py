"""How fast clips are decoded where four frames are wanted of them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import av
import numpy as np

from model.media import reader
from model.media.video import colour
from model.preprocess.specs import PROFILES
from service.bench.clips import MIX, ClipSpec, render_clip
from service.bench.stopwatch import median_ms, time_call
from service.classification.upload_fields import InputFiles
from service.decoding.files import decode
from service.decoding.fork_server import DecodeLimits
from service.decoding.job import DecodeRequest
from service.decoding.pool import DecoderPool
from service.runtime import cores

#: 10 s of 720p H.264 with a key frame a second (phones), every two, and at the start alone.
LONG = tuple(
    ClipSpec(f"720p mp4, 10 s, key frame each {what}", "mp4", "libx264", "aac", 720, 1280, 10,
             group=group)
    for what, group in (("1 s", 30), ("2 s", 60), ("8.3 s", 250))
)  # fmt: skip
FRAMES = 4


@dataclass(frozen=True)
class DecodeTiming:
    """Median milliseconds over `rounds`, in turns, pictures alone: to turn every frame into RGB,
    to decode every frame, and to read those that are wanted, in one thread, and these in as many
    as a lone request has (`alone_ms`); and whether they are the same, to the bit."""

    clip: str
    kilobytes: int
    every_rgb_ms: float
    every_ms: float
    wanted_ms: float
    alone_ms: float
    same: bool
    rounds: int


@dataclass(frozen=True)
class ProcessTiming:
    """Median milliseconds of a whole request's decoding and preprocessing, here and in a
    confined process."""

    clip: str
    here_ms: float
    confined_ms: float
    rounds: int


def timings(rounds: int) -> list[DecodeTiming]:
    """Each of the long clips and of the mixed load's."""
    return [_timing(spec, rounds) for spec in (*LONG, *(spec for spec, _ in MIX))]


def process_timings(rounds: int) -> list[ProcessTiming]:
    """What the wall between the service and its decoders costs."""
    wanted = DecodeRequest(
        name="avdigits", streams=PROFILES["avdigits"], missing_streams=True, steps=FRAMES,
        canvas=False,
    )  # fmt: skip
    decoders = DecoderPool(1, DecodeLimits(seconds=60, memory_bytes=1 << 30))
    found = []
    loop = asyncio.new_event_loop()
    try:
        for spec, _ in MIX:
            files = InputFiles(clip=render_clip(spec))
            here: list[float] = []
            confined: list[float] = []
            for _ in range(rounds + 1):
                here.append(time_call(partial(decode, files, wanted)))
                task = decoders.decode(files, wanted)
                confined.append(time_call(partial(loop.run_until_complete, task)))
            found.append(ProcessTiming(spec.name, median_ms(here), median_ms(confined), rounds))
    finally:
        decoders.stop()
        loop.close()
    return found


def _timing(spec: ClipSpec, rounds: int) -> DecodeTiming:
    data = render_clip(spec)
    ways: tuple[Callable[[bytes], object], ...] = (_every_rgb, _every, _wanted, _alone)
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds + 1):  # the first fills caches
        for taken, work in zip(times, ways, strict=True):
            taken.append(time_call(partial(work, data)))
    shown, chosen = _every(data), (_wanted(data), _alone(data))
    centres = [int((part + 0.5) / FRAMES * len(shown)) for part in range(FRAMES)]
    same = all(
        np.array_equal(colour.to_srgb(shown[at], spec.width, spec.height), ours)
        for pictures in chosen
        for at, ours in zip(centres, pictures.frames, strict=True)
    )
    every_rgb, every, wanted, alone = (median_ms(taken) for taken in times)
    return DecodeTiming(spec.name, len(data) // 1024, every_rgb, every, wanted, alone, same, rounds)


def _every_rgb(data: bytes) -> None:
    for frame in _every(data):
        frame.to_ndarray(format="rgb24", threads=1)  # as ours are: more are slower here


def _every(data: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(data), "r") as container:
        video = container.streams.video[0]
        video.codec_context.thread_count = 1
        return [frame for frame in container.decode([video]) if isinstance(frame, av.VideoFrame)]


def _wanted(data: bytes, threads: int = 1) -> reader.Pictures:
    limits = reader.Limits(threads=threads)
    pictures = reader.read_clip(data, FRAMES, sound=False, limits=limits).pictures
    assert pictures is not None
    return pictures


def _alone(data: bytes) -> reader.Pictures:
    return _wanted(data, cores.available())
