"""Benchmark of decoding: four frames of a clip against all frames, and the cost of the sandbox."""

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
from model.preprocess.profiles import PROFILES
from service.bench.clips import MIX, ClipSpec, render_clip
from service.bench.stopwatch import median_ms, time_call
from service.classification.upload_fields import InputFiles
from service.decoding.files import decode
from service.decoding.fork_server import DecodeLimits
from service.decoding.job import DecodeRequest
from service.decoding.pool import DecoderPool
from service.runtime import cores

#: 10 s of 720p H.264 with a key frame each second (phones), two, and 8.3.
LONG = tuple(
    ClipSpec(f"720p mp4, 10 s, key frame each {interval}", "mp4", "libx264", "aac", 720, 1280, 10,
             group=group)
    for interval, group in (("1 s", 30), ("2 s", 60), ("8.3 s", 250))
)  # fmt: skip
FRAMES = 4


@dataclass(frozen=True)
class DecodeTiming:
    """Median milliseconds over `rounds`, of the pictures alone. The five ways alternate.

    - `all_rgb_ms`: decode all frames and convert them to RGB, with one thread.
    - `all_ms`: decode all frames, with one thread.
    - `four_ms`: read the FRAMES frames that a request needs, with one thread.
    - `four_all_cores_ms`: the same with as many threads as a lone request has.
    - `key_frames_ms`: read FRAMES key frames instead, where there is one in each part of the clip
      (`max_frame_shift` 0.5), with one thread.
    - `same_frames`: whether the frames of `four_ms` and `four_all_cores_ms` are equal, bit for
      bit, to those of decoding all.
    """

    clip: str
    kilobytes: int
    all_rgb_ms: float
    all_ms: float
    four_ms: float
    four_all_cores_ms: float
    key_frames_ms: float
    same_frames: bool
    rounds: int


@dataclass(frozen=True)
class ProcessTiming:
    """Median milliseconds of a whole request's decoding and preprocessing, in this process and in
    a sandboxed one."""

    clip: str
    in_process_ms: float
    sandboxed_ms: float
    rounds: int


def timings(rounds: int) -> list[DecodeTiming]:
    """Time the decoding of each of the long clips and of the mixed load's clips."""
    return [_timing(spec, rounds) for spec in (*LONG, *(spec for spec, _ in MIX))]


def process_timings(rounds: int) -> list[ProcessTiming]:
    """Time decoding and preprocessing in this process and in a sandboxed one."""
    request = DecodeRequest(
        name="avdigits", streams=PROFILES["avdigits"], missing_streams=True, steps=FRAMES,
        canvas=False,
    )  # fmt: skip
    decoders = DecoderPool(1, DecodeLimits(seconds=60, memory_bytes=1 << 30))
    results = []
    loop = asyncio.new_event_loop()
    try:
        for spec, _ in MIX:
            files = InputFiles(clip=render_clip(spec))
            in_process: list[float] = []
            sandboxed: list[float] = []
            for _ in range(rounds + 1):
                in_process.append(time_call(partial(decode, files, request)))
                task = decoders.decode(files, request)
                sandboxed.append(time_call(partial(loop.run_until_complete, task)))
            medians = median_ms(in_process), median_ms(sandboxed)
            results.append(ProcessTiming(spec.name, *medians, rounds))
    finally:
        decoders.stop()
        loop.close()
    return results


def _timing(spec: ClipSpec, rounds: int) -> DecodeTiming:
    data = render_clip(spec)
    decoders: tuple[Callable[[bytes], object], ...] = (
        _convert_all, _decode_all, _read_four, _read_four_on_all_cores, _read_key_frames,
    )  # fmt: skip
    seconds: list[list[float]] = [[] for _ in decoders]
    for _ in range(rounds + 1):  # the first fills caches
        for times, work in zip(seconds, decoders, strict=True):
            times.append(time_call(partial(work, data)))
    all_rgb, all_frames, four, all_cores, key_frames = map(median_ms, seconds)
    return DecodeTiming(
        spec.name, len(data) // 1024, all_rgb, all_frames, four, all_cores, key_frames,
        _is_same(data, spec), rounds,
    )  # fmt: skip


def _is_same(data: bytes, spec: ClipSpec) -> bool:
    """Return whether the four frames are equal to those of decoding all frames."""
    all_frames = _decode_all(data)
    centres = [int((part + 0.5) / FRAMES * len(all_frames)) for part in range(FRAMES)]
    return all(
        np.array_equal(colour.to_srgb(all_frames[index], spec.width, spec.height), frame)
        for pictures in (_read_four(data), _read_four_on_all_cores(data))
        for index, frame in zip(centres, pictures.frames, strict=True)
    )


def _convert_all(data: bytes) -> None:
    for frame in _decode_all(data):
        frame.to_ndarray(format="rgb24", threads=1)  # as `colour` does: more are slower here


def _decode_all(data: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(data), "r") as container:
        video = container.streams.video[0]
        video.codec_context.thread_count = 1
        return [frame for frame in container.decode([video]) if isinstance(frame, av.VideoFrame)]


def _read_four(data: bytes, threads: int = 1, max_frame_shift: float = 0.0) -> reader.Pictures:
    limits = reader.Limits(threads=threads, max_frame_shift=max_frame_shift)
    pictures = reader.read_clip(data, FRAMES, sound=False, limits=limits).pictures
    assert pictures is not None
    return pictures


def _read_four_on_all_cores(data: bytes) -> reader.Pictures:
    return _read_four(data, cores.available())


def _read_key_frames(data: bytes) -> reader.Pictures:
    return _read_four(data, max_frame_shift=0.5)
