"""The buffers and clocks of inputs, and what a window has of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from model.media.live.types import SAMPLE_RATE
from service.classification.upload_fields import InputFiles
from service.streaming.buffers import Picture, PictureBuffer, SeriesBuffer, SoundBuffer
from service.streaming.clock import MAX_REORDERED, InputClock
from service.streaming.messages import (
    Input,
    Media,
    OpusInput,
    SeriesInput,
    SoundInput,
    VideoInput,
)

Buffer: TypeAlias = PictureBuffer | SoundBuffer | SeriesBuffer


def buffer_of(source: Input, seconds: float, max_bytes: int) -> Buffer:
    """Return an empty buffer of an input."""
    if isinstance(source, SoundInput):
        return SoundBuffer(seconds, source.sample_rate, source.channels, max_bytes)
    if isinstance(source, OpusInput):
        return SoundBuffer(seconds, SAMPLE_RATE, source.channels, max_bytes)
    if isinstance(source, SeriesInput):
        return SeriesBuffer(seconds, source.sample_rate, max_bytes)
    return PictureBuffer(seconds, max_bytes)


def clock_of(source: Input, seconds: float) -> InputClock:
    """Return the clock of an input, for which more than `seconds` between messages are a jump."""
    return InputClock(seconds, MAX_REORDERED if isinstance(source, VideoInput) else 0)


def add_media(buffer: Buffer, media: Media) -> None:
    """Add what a message has."""
    if isinstance(buffer, PictureBuffer):
        buffer.add(media.time_ns, media.payload, media.sequence)
    else:
        buffer.add(media.time_ns, media.payload)


def select_pictures(
    sources: Sequence[Input], buffers: Sequence[Buffer], begin_ns: int, end_ns: int, count: int
) -> dict[str, list[Picture]]:
    """Return the pictures of a window, by field, `count` of each."""
    return {
        source.field: buffer.select(begin_ns, end_ns, count)
        for source, buffer in zip(sources, buffers, strict=True)
        if isinstance(buffer, PictureBuffer)
    }


def files_of(
    sources: Sequence[Input],
    buffers: Sequence[Buffer],
    begin_ns: int,
    end_ns: int,
    pictures: Mapping[str, Sequence[Picture]],
) -> InputFiles:
    """Return a window, with these pictures, as the files of an upload."""
    files: dict[str, bytes | list[bytes] | None] = {}
    for source, buffer in zip(sources, buffers, strict=True):
        if isinstance(buffer, PictureBuffer):
            files[source.field] = [picture.payload for picture in pictures[source.field]]
        elif isinstance(buffer, SoundBuffer):
            files[source.field] = buffer.wav(begin_ns, end_ns)
        else:
            files[source.field] = buffer.npz(begin_ns, end_ns)
    return InputFiles(**files)
