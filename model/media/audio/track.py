"""Decode a container's audio track packet by packet, within limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.stream import Stream
from numpy.typing import NDArray

from model.arrays import Float32Array
from model.media.audio.resample import resample_soxr
from model.media.pyav import to_fraction
from model.media.types import SLACK_S, Limits, Sound, TooLarge, Unusable

NOT_FINITE = "its sound contains NaN or infinite values"
#: PyAV searches for a null pointer behind a frame's planes. With 8 or more planes there is none,
#: and the process crashes.
_UNSAFE_PLANES = 8
#: Decoders that set a frame's sample rate before they have read it in the frame's header.
_LATE_RATES = ("mp1", "mp2", "mp3")
#: A sound that is shorter than its header says by more than this, in seconds, lacks packets.
_MAX_MISSING_S = 0.05
#: Samples, over all channels, that FFmpeg collects before they are converted at once.
_COLLECTED_SAMPLES = 1 << 18

#: Rate in Hz, number of channels, and the frame's own rate, format and layout.
_FrameKind = tuple[int, int, int, str, str]


class TrackDecoder:
    """Decode one audio track within the limits.

    Sample rate, channels and sample format may change from frame to frame, as in broadcasts and
    concatenated files.
    """

    def __init__(self, stream: Stream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._segments: list[_Segment] = []
        # Frames of one kind are collected by FFmpeg, which takes a third of the time in which
        # NumPy copies the samples of each: a clip has a hundred small frames.
        self._fifo: av.AudioFifo | None = None
        self._kind: _FrameKind | None = None
        self._seconds = 0.0
        self._complete = True
        self._converters: dict[tuple[str, str, int], av.AudioResampler] = {}

    def add(self, packet: Packet[Any]) -> None:
        """Decode a packet. Raises TooLarge and Unusable as `check_sound` does."""
        self._complete &= not packet.is_corrupt
        self._decode(packet)

    def sound(self) -> tuple[Sound | None, str | None]:
        """Return the sound, after the last packet; or None and the problem. Raises as `add`."""
        self._decode(None)  # flush the decoder
        self._convert_collected()
        if not self._segments:
            return None, "its sound is damaged or empty: nothing could be decoded"
        sounds = [Sound(segment.samples, segment.rate) for segment in self._segments]
        complete = self._complete and not self._is_short()
        sound = concatenate(sounds, self._limits, complete=complete)
        return (sound, None) if np.isfinite(sound.samples).all() else (None, NOT_FINITE)

    def _decode(self, packet: Packet[Any] | None) -> None:
        context: Any = self._stream.codec_context
        try:
            frames = list(context.decode(packet))
        except MemoryError:
            raise
        except Exception:  # FFmpeg's errors, and builtin ones for some damaged packets
            self._complete = False
            return
        for frame in frames:
            rate = frame.sample_rate
            if context.codec.canonical_name in _LATE_RATES:
                rate = context.sample_rate
            if frame.samples:
                self._append(frame, rate)

    def _append(self, frame: AudioFrame, rate: int) -> None:
        layout, count = frame.layout, frame.samples
        channels = layout.nb_channels
        seconds = self._seconds + (count / rate if rate > 0 else 0)
        # The total length at this frame's rate; exact unless the rate changes.
        check_sound(rate, channels, round(seconds * rate), self._limits)
        kind = rate, channels, frame.sample_rate, frame.format.name, layout.name
        try:
            if kind != self._kind:
                self._convert_collected()
                self._kind = kind
                self._fifo = av.AudioFifo() if _is_convertible(frame) else None
            if self._fifo is None:
                self._add_block(self._convert_by_ffmpeg(frame), rate)
            else:
                frame.pts = None  # gaps are not filled
                self._fifo.write(frame)
                if self._fifo.samples * channels >= _COLLECTED_SAMPLES:
                    self._convert_collected()
        except (ValueError, av.error.FFmpegError):  # it cannot be converted
            self._complete = False
            return
        self._seconds = seconds

    def _convert_collected(self) -> None:
        """Convert the collected frames to a block of their segment."""
        frame = self._fifo.read() if self._fifo is not None else None
        if frame is not None and self._kind is not None:
            self._add_block(_to_float32(frame), self._kind[0])

    def _add_block(self, samples: Float32Array | None, rate: int) -> None:
        """Add samples [channels, n] to the segment, or to a new one where rate or channels
        change."""
        if samples is None:
            return
        last = self._segments[-1] if self._segments else None
        if last is None or (last.rate, last.channels) != (rate, len(samples)):
            last = _Segment(rate, len(samples))
            self._segments.append(last)
        last.blocks.append(samples)

    def _convert_by_ffmpeg(self, frame: AudioFrame) -> Float32Array | None:
        """Return samples [channels, n], converted to interleaved floats by FFmpeg."""
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        converter = self._converters.setdefault(key, av.AudioResampler("flt"))
        converted = [_to_float32(part) for part in converter.resample(frame)]
        return np.concatenate(converted, axis=1) if converted else None

    def _is_short(self) -> bool:
        """Return whether the decoded sound is shorter than the header says."""
        time_base = to_fraction(self._stream.time_base)
        if not self._stream.duration or time_base is None:
            return False
        return self._seconds < float(self._stream.duration * time_base) - _MAX_MISSING_S


class _Segment:
    """Consecutive blocks [channels, n] with one sample rate (Hz)."""

    def __init__(self, rate: int, channels: int) -> None:
        self.rate = rate
        self.channels = channels
        self.blocks: list[Float32Array] = []

    @property
    def samples(self) -> Float32Array:
        """All blocks as one."""
        return self.blocks[0] if len(self.blocks) == 1 else np.concatenate(self.blocks, axis=1)


def concatenate(sounds: Sequence[Sound], limits: Limits, *, complete: bool) -> Sound:
    """Concatenate sounds after converting each to one sample rate and number of channels.

    These are the highest of all sounds, so that nothing is lost. Missing channels are filled with
    the average of the existing ones, which keeps the average. Track numbers are those of the
    first sound. Raises TooLarge if the result exceeds the limits.
    """
    rate = max(sound.sample_rate for sound in sounds)
    channels = max(sound.samples.shape[0] for sound in sounds)
    seconds = sum(sound.duration_s for sound in sounds)
    check_sound(rate, channels, round(seconds * rate), limits)
    converted = [_convert(sound, rate, channels) for sound in sounds]
    samples = np.concatenate(converted, axis=1) if len(sounds) > 1 else converted[0]
    return Sound(np.ascontiguousarray(samples), rate, sounds[0].track, sounds[0].tracks, complete)


def _convert(sound: Sound, rate: int, channels: int) -> Float32Array:
    """Return samples [channels, n] at `rate` Hz."""
    samples, missing = sound.samples, channels - sound.samples.shape[0]
    if sound.sample_rate != rate:
        samples = resample_soxr(np.ascontiguousarray(samples.T), sound.sample_rate, rate).T
    if missing:
        average = samples.mean(axis=0, dtype=np.float64).astype(np.float32)
        samples = np.concatenate([samples, np.tile(average, (missing, 1))])
    return samples


def check_sound(rate: int, channels: int, length: int, limits: Limits) -> None:
    """Raise TooLarge or Unusable if a sound of `length` samples per channel exceeds the limits."""
    accepted = f"{limits.min_sample_rate} to {limits.max_sample_rate} Hz are accepted"
    if rate > limits.max_sample_rate:
        detail = f"its sound has a sample rate of {rate} Hz; {accepted}"
        raise TooLarge(detail, limit="max_sample_rate")
    if rate < limits.min_sample_rate:
        raise Unusable(f"its sound has a sample rate of {rate} Hz; {accepted}")
    if channels > limits.max_channels:
        raise TooLarge(
            f"its sound has {channels} channels; at most {limits.max_channels} are accepted",
            limit="max_channels",
        )
    if length > (limits.max_duration_s + SLACK_S) * rate:
        detail = f"its sound is longer than {limits.max_duration_s:g} s"
        raise TooLarge(detail, limit="max_duration_s")
    if length * channels > limits.max_samples:
        raise TooLarge(
            f"its sound has too many samples; at most {limits.max_samples} over all channels are "
            "accepted"
        )


#: Types of samples by the format's name, without the "p" of planar ones.
_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "flt": "f4", "dbl": "f8"}


def _is_convertible(frame: AudioFrame) -> bool:
    """Return whether `_to_float32` can convert a frame's samples."""
    name = frame.format.name
    is_planar = name.endswith("p")
    return name.removesuffix("p") in _DTYPES and not (
        is_planar and frame.layout.nb_channels >= _UNSAFE_PLANES
    )


def _to_float32(frame: AudioFrame) -> Float32Array:
    """Return samples [channels, n] in [-1, 1]. Raises ValueError for unsupported formats."""
    values = _to_ndarray(frame)
    if values.dtype == np.float32:
        return values
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # values beyond float32 are rejected as infinite later
            return np.asarray(values, np.float32)
    if values.dtype.kind == "u":
        return np.asarray((values.astype(np.float32) - 128) / 128, np.float32)
    full_scale = 2.0 ** (8 * values.dtype.itemsize - 1)
    return np.asarray(values.astype(np.float32) / full_scale, np.float32)


def _to_ndarray(frame: AudioFrame) -> NDArray[Any]:
    """Return a frame's samples [channels, n] as they are; a single channel is not copied."""
    name = frame.format.name
    dtype = _DTYPES.get(name.removesuffix("p"))
    if dtype is None:
        raise ValueError(f"sample format {name!r}")
    channels, count = frame.layout.nb_channels, frame.samples
    planes: Any = frame.planes  # buffers, which their annotation does not say
    if not frame.format.is_planar:
        interleaved = np.frombuffer(planes[0], dtype, count * channels)
        return np.ascontiguousarray(interleaved.reshape(-1, channels).T)
    rows = [np.frombuffer(plane, dtype, count) for plane in planes]
    return rows[0][None] if channels == 1 else np.stack(rows)
