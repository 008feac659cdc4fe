"""The sound of a container, packet by packet, within limits."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.packet import Packet
from numpy.typing import NDArray

from model.clip import SLACK_S, Limits, Sound, TooLarge, Unusable
from model.packets import decoded

#: PyAV looks for the end of a frame's planes where 8 or more leave none, and the process dies.
_UNSAFE_PLANES = 8


class Samples:
    """Decoded sound, gathered piece by piece within the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pieces: list[NDArray[np.float32]] = []
        self._rate = self._channels = self._length = 0
        self._packed = av.AudioResampler("flt")

    def add(self, packet: Packet[Any]) -> None:
        """Decode a packet; raises TooLarge or Unusable as `check_sound` does."""
        for frame in decoded(packet.stream, packet):
            piece = self._piece(frame)
            if piece is None or not piece.shape[1]:
                continue
            if not self._rate:
                self._rate, self._channels = frame.sample_rate, piece.shape[0]
            if (frame.sample_rate, piece.shape[0]) != (self._rate, self._channels):
                continue  # damage: no encoder changes these within a stream
            self._pieces.append(piece)
            self._length += piece.shape[1]
            check_sound(self._rate, self._channels, self._length, self._limits)

    def _piece(self, frame: AudioFrame) -> NDArray[np.float32] | None:
        """Samples [channels, n]; None for a format that PyAV does not hand over."""
        try:
            if frame.format.is_planar and frame.layout.nb_channels >= _UNSAFE_PLANES:
                packed = [_samples(part) for part in self._packed.resample(frame)]
                return np.concatenate(packed, axis=1) if packed else None
            return _samples(frame)
        except (ValueError, av.error.FFmpegError):
            return None

    def sound(self) -> tuple[Sound | None, str | None]:
        """The sound, or None and why."""
        if not self._length:
            return None, "its sound is damaged or empty: nothing of it could be decoded"
        samples = np.concatenate(self._pieces, axis=1)
        if not np.isfinite(samples).all():
            return None, "its sound holds values that are no numbers (NaN or infinite)"
        return Sound(samples, self._rate), None


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


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
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
