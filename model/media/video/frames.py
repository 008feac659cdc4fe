"""Read evenly spaced pictures of a video stream as RGB, upright, with square pixels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from av.stream import Stream
from av.video.frame import VideoFrame

from model.arrays import UInt8Array
from model.media.picture.animation import CANVAS_CODECS, check_composed_pixels
from model.media.types import Limits, Pictures, TooLarge, Unusable
from model.media.video import colour
from model.media.video.decode_budget import DecodeBudget
from model.media.video.decode_plan import (
    drop_non_reference,
    packets_to_decode,
    split_at_key_frames,
)
from model.media.video.frame_decoder import FrameDecoder
from model.media.video.orientation import apply_matrix
from model.media.video.timeline import Timeline

#: More threads than this wait for each other's rows.
_MAX_THREADS = 4
#: Frames with more pixels than this are decoded by one thread. More are no faster, and each holds
#: frames in memory.
_MAX_THREADED_PIXELS = 4_000_000

#: Pictures by the time at which they are shown (s).
_PicturesByTime = dict[float, UInt8Array]


def read_frames(
    stream: Stream,
    reopen: Callable[[], Stream],
    timeline: Timeline,
    frames: int,
    limits: Limits,
) -> tuple[Pictures | None, str | None]:
    """Return the pictures at the centres of `frames` equal parts of the timeline, or key frames
    near them: see Timeline.select_times.

    Returns None and the problem if nothing can be decoded. `reopen` opens the stream again, with
    a decoder of its own. Raises TooLarge.
    """
    context: Any = stream.codec_context
    _check_size(context.width, context.height, limits)
    if context.name in CANVAS_CODECS:
        check_composed_pixels(len(timeline.packets), context.width, context.height, limits)
    first_time, selected_times = timeline.select_times(frames)
    times = sorted(set(selected_times))
    packets = packets_to_decode(timeline, times)
    if len(packets) * context.width * context.height > limits.max_decoded_pixels:
        packets = drop_non_reference(stream, timeline, packets)
    budget = DecodeBudget(len(packets), limits)
    budget.check_remaining(context.width, context.height)
    threads = _max_threads(context, limits)
    parts = split_at_key_frames(timeline.packets, times, threads)
    streams = [stream, *(reopen() for _ in parts[1:])]
    read = partial(
        _read_part,
        timeline=timeline,
        budget=budget,
        limits=limits,
        max_pixels=limits.max_total_pixels // max(1, len(times)),
        threads=threads // len(parts),
    )
    pictures: _PicturesByTime = {}
    try:
        for part in _read_in_parallel(read, streams, parts):
            pictures |= part
    except Unusable as error:  # the sound may be usable
        return None, error.detail
    if not pictures:
        return (
            None,
            f"its picture ({context.name}) is damaged or empty: nothing could be decoded",
        )
    nearest = [min(pictures, key=lambda shown: abs(shown - time)) for time in selected_times]
    return Pictures(
        tuple(pictures[time] for time in nearest),
        tuple(time - first_time for time in nearest),
        timeline.pictures_s,
    ), None


def _read_in_parallel(
    read: Callable[[Stream, list[float]], _PicturesByTime],
    streams: list[Stream],
    parts: list[list[float]],
) -> list[_PicturesByTime]:
    """Call `read` for the first part in this thread, and for the others in threads of their own."""
    first, *others = zip(streams, parts, strict=True)
    if not others:
        return [read(*first)]
    with ThreadPoolExecutor(len(others), "scmrl-video") as pool:
        tasks = [pool.submit(read, *other) for other in others]
        return [read(*first), *(task.result() for task in tasks)]


def _read_part(
    stream: Stream,
    times: list[float],
    *,
    timeline: Timeline,
    budget: DecodeBudget,
    limits: Limits,
    max_pixels: int,
    threads: int,
) -> _PicturesByTime:
    """Return the frames shown at `times` that can be decoded, of at most `max_pixels` pixels."""
    context: Any = stream.codec_context
    # Of the common codecs, only H.264 is faster with frame threads. Changes of the decoder's state
    # within the stream are visible at once with one thread only.
    uses_threads = context.name == "h264" and not timeline.state.changes
    context.thread_count = threads if uses_threads else 1
    context.thread_type = "FRAME"
    context.options = {"max_pixels": str(limits.max_pixels)}
    decoder = FrameDecoder(stream, timeline, times, budget)
    pictures: _PicturesByTime = {}
    for time in times:
        frame = decoder.frame_at(time)
        if frame is None:
            continue
        _check_size(frame.width, frame.height, limits)
        picture = to_rgb(frame, decoder.aspect_at(time), max_pixels)
        pictures[time] = apply_matrix(picture, decoder.matrix_at(frame, time))
    return pictures


def _max_threads(context: Any, limits: Limits) -> int:
    is_small = context.width * context.height <= _MAX_THREADED_PIXELS
    return min(limits.threads, _MAX_THREADS) if is_small else 1


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"its pictures are {width} x {height} pixels; at most {limits.max_pixels} are accepted",
            limit="max_pixels",
        )


def to_rgb(frame: VideoFrame, aspect: float, max_pixels: int) -> UInt8Array:
    """Convert the frame to RGB [h, w, 3] with square pixels, at most `max_pixels` of them."""
    width, height = frame.width * aspect, float(frame.height)
    if colour.is_wide_gamut(frame):
        max_pixels = min(max_pixels, colour.MAX_WIDE_GAMUT_PIXELS)
    scale = min(1.0, (max_pixels / (width * height)) ** 0.5)
    return colour.to_srgb(frame, max(1, int(width * scale)), max(1, int(height * scale)))
