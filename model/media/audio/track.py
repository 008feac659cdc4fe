"""The sound of a container's track, packet by packet, within limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.stream import Stream
from numpy.typing import NDArray

from model.media.audio.resample import resample_soxr
from model.media.pyav import fraction
from model.media.types import SLACK_S, Limits, Sound, TooLarge, Unusable

Floats = NDArray[np.float32]

NOT_NUMBERS = "its sound holds values that are no numbers (NaN or infinite)"
#: PyAV looks for the end of a frame's planes where 8 or more leave none, and the process dies.
_UNSAFE_PLANES = 8
#: Decoders that set the sample rate of a frame before they read it in the frame's own header.
_LATE_RATES = ("mp1", "mp2", "mp3")
#: A sound that ends this much before its header says, in seconds, has lost some of its packets.
_SHORT_S = 0.05


class Samples:
    """The decoded sound of one track, gathered piece by piece within the limits.

    Sample rate, channels and format may change from one frame to the next, as they do in
    broadcasts and where files were put together.
    """

    def __init__(self, stream: Stream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._parts: list[_Part] = []
        self._seconds = 0.0
        self._complete = True
        self._packers: dict[tuple[str, str, int], av.AudioResampler] = {}

    def add(self, packet: Packet[Any]) -> None:
        """Decode a packet; raises TooLarge or Unusable as `check_sound` does."""
        self._complete &= not packet.is_corrupt
        self._decode(packet)

    def sound(self) -> tuple[Sound | None, str | None]:
        """The sound, after the last packet; or None and why. Raises as `add` does."""
        self._decode(None)  # what the decoder still holds
        if not self._parts:
            return None, "its sound is damaged or empty: nothing of it could be decoded"
        sounds = [Sound(np.concatenate(p.pieces, axis=1), p.rate) for p in self._parts]
        sound = joined(sounds, self._limits, complete=self._complete and not self._is_short())
        return (sound, None) if np.isfinite(sound.samples).all() else (None, NOT_NUMBERS)

    def _decode(self, packet: Packet[Any] | None) -> None:
        context: Any = self._stream.codec_context
        try:
            frames = list(context.decode(packet))
        except MemoryError:
            raise
        except Exception:  # FFmpeg's errors, and builtin ones on some damage
            self._complete = False
            return
        for frame in frames:
            rate = frame.sample_rate
            if context.codec.canonical_name in _LATE_RATES:
                rate = context.sample_rate
            samples = self._samples(frame)
            if samples is not None and samples.shape[1]:
                self._append(samples, rate)

    def _append(self, samples: Floats, rate: int) -> None:
        channels, length = samples.shape
        self._seconds += length / rate if rate > 0 else 0
        # All of it at this piece's rate, which is exact where that does not change.
        check_sound(rate, channels, round(self._seconds * rate), self._limits)
        last = self._parts[-1] if self._parts else None
        if last is None or (last.rate, last.channels) != (rate, channels):
            last = _Part(rate, channels)
            self._parts.append(last)
        last.pieces.append(samples)

    def _samples(self, frame: AudioFrame) -> Floats | None:
        """Samples [channels, n]; None where not even FFmpeg can convert them."""
        try:
            if frame.format.is_planar and frame.layout.nb_channels >= _UNSAFE_PLANES:
                return self._packed(frame)
            try:
                return _values(frame)
            except ValueError:  # a format that PyAV does not hand over
                return self._packed(frame)
        except (ValueError, av.error.FFmpegError):
            self._complete = False
            return None

    def _packed(self, frame: AudioFrame) -> Floats | None:
        """Samples [channels, n] by FFmpeg's own conversion to interleaved floats."""
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        packer = self._packers.setdefault(key, av.AudioResampler("flt"))
        packed = [_values(part) for part in packer.resample(frame)]
        return np.concatenate(packed, axis=1) if packed else None

    def _is_short(self) -> bool:
        """Whether less was decoded than the container's header says there is."""
        time_base = fraction(self._stream.time_base)
        if not self._stream.duration or time_base is None:
            return False
        return self._seconds < float(self._stream.duration * time_base) - _SHORT_S


class _Part:
    """Pieces [channels, n] that follow each other at one rate in Hz."""

    def __init__(self, rate: int, channels: int) -> None:
        self.rate = rate
        self.channels = channels
        self.pieces: list[Floats] = []


def joined(parts: Sequence[Sound], limits: Limits, *, complete: bool) -> Sound:
    """One sound of parts that follow each other, each converted to one format.

    That is the highest sample rate and the most channels of any part, so that nothing is lost.
    Channels that a part lacks hold the average of those it has, which keeps its average. Track
    numbers are those of the first part. Raises TooLarge where all of it exceeds the limits.
    """
    rate = max(part.sample_rate for part in parts)
    channels = max(part.samples.shape[0] for part in parts)
    seconds = sum(part.duration_s for part in parts)
    check_sound(rate, channels, round(seconds * rate), limits)
    converted = [_converted(part, rate, channels) for part in parts]
    samples = np.concatenate(converted, axis=1) if len(parts) > 1 else converted[0]
    return Sound(np.ascontiguousarray(samples), rate, parts[0].track, parts[0].tracks, complete)


def _converted(sound: Sound, rate: int, channels: int) -> Floats:
    """Samples [channels, n] at `rate` Hz."""
    samples, lacking = sound.samples, channels - sound.samples.shape[0]
    if sound.sample_rate != rate:
        samples = resample_soxr(np.ascontiguousarray(samples.T), sound.sample_rate, rate).T
    if lacking:
        average = samples.mean(axis=0, dtype=np.float64).astype(np.float32)
        samples = np.concatenate([samples, np.tile(average, (lacking, 1))])
    return samples


def check_sound(rate: int, channels: int, length: int, limits: Limits) -> None:
    """Raises TooLarge or Unusable where `length` samples of each channel exceed the limits."""
    accepted = f"{limits.min_sample_rate} to {limits.max_sample_rate} are accepted"
    if rate > limits.max_sample_rate:
        raise TooLarge(f"its sound has {rate} samples a second; {accepted}")
    if rate < limits.min_sample_rate:
        raise Unusable(f"its sound has {rate} samples a second; {accepted}")
    if channels > limits.max_channels:
        raise TooLarge(f"its sound has {channels} channels; at most {limits.max_channels}")
    if length > (limits.max_duration_s + SLACK_S) * rate:
        raise TooLarge(f"its sound is longer than {limits.max_duration_s:g} s")
    if length * channels > limits.max_samples:
        raise TooLarge(f"its sound has more than {limits.max_samples} samples")


def _values(frame: AudioFrame) -> Floats:
    """Samples [channels, n] in [-1, 1]; ValueError for a format that PyAV does not hand over."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
            return np.asarray(values, np.float32)
    if values.dtype.kind == "u":
        return np.asarray((values.astype(np.float32) - 128) / 128, np.float32)
    full = 2.0 ** (8 * values.dtype.itemsize - 1)
    return np.asarray(values.astype(np.float32) / full, np.float32)
