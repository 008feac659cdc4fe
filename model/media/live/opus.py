"""Decode Opus packets of a live stream."""

from __future__ import annotations

import struct
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from model.media.live.sequence import Sequence
from model.media.live.types import SAMPLE_RATE, Decoded, Outcome, Packet

_NS = 1_000_000_000
#: Longest packet in bytes: 48 frames of 1275 bytes with their lengths (RFC 6716, 3.2.5 and 3.4).
_MAX_BYTES = 48 * 1277 + 2
#: Longest silence in place of lost packets, in samples; a longer gap is left to the stamps.
_MAX_FILL = SAMPLE_RATE


class OpusDecoder:
    """Decodes packets (RFC 6716) to samples int16 [n, channels] at 48 kHz.

    `channels`: 1 or 2, of the decoded sound; a packet of the other kind is converted. `pre_skip`:
    samples by which the encoder delays the sound (RFC 7845, 4.2), which are dropped at the
    beginning. Lost and damaged packets are replaced by silence.
    """

    def __init__(self, channels: int, pre_skip: int) -> None:
        self._channels = channels
        self._pre_skip = self._left_to_skip = pre_skip
        self._context: Any = av.CodecContext.create("opus", "r")
        self._context.sample_rate = SAMPLE_RATE
        self._context.layout = "mono" if channels == 1 else "stereo"
        # Without a pre-skip, which is dropped here.
        self._context.extradata = struct.pack(
            "<8sBBHIhB", b"OpusHead", 1, channels, 0, SAMPLE_RATE, 0, 0
        )
        self._sequence = Sequence()
        self._unfilled = 0  # packets without sound since the last one with
        self._length = 0  # samples of the last packet
        self._end_ns = -1  # of the last packet

    def decode(self, packet: Packet) -> Decoded[NDArray[np.int16]]:
        """Decode a packet; never raises for its content."""
        if packet.is_end:  # nothing is held back
            return Decoded(Outcome.DECODED)
        missing = self._sequence.missing(packet)
        if missing is None:
            return Decoded(Outcome.LATE)
        self._unfilled += missing
        try:
            samples = self._samples(packet.data)
        except (av.error.FFmpegError, ValueError):
            self._context.flush_buffers()
            self._unfilled += 1
            return Decoded(Outcome.DAMAGED, missing)
        return Decoded(Outcome.DECODED, missing, self._pieces(samples, packet.time_ns))

    def _samples(self, data: bytes) -> NDArray[np.int16]:
        """Return the samples [n, channels] of a packet. Raises FFmpegError and ValueError."""
        if len(data) > _MAX_BYTES:
            raise ValueError("the packet is too long")
        frames = self._context.decode(av.Packet(data))
        if not frames:
            raise ValueError("the packet has no sound")
        planes = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
        values = np.nan_to_num(planes.T, nan=0.0, posinf=1.0, neginf=-1.0).clip(-1, 1)
        return np.rint(values * 32767).astype("<i2")  # type: ignore[no-any-return]

    def _pieces(
        self, samples: NDArray[np.int16], time_ns: int
    ) -> tuple[tuple[int, NDArray[np.int16]], ...]:
        """Return the samples by capture time, after silence in place of those that are missing."""
        fill = self._fill(time_ns)
        self._unfilled, self._length = 0, len(samples)
        self._end_ns = time_ns + len(samples) * _NS // SAMPLE_RATE
        if fill:
            silence = np.zeros((fill, self._channels), samples.dtype)
            samples = np.concatenate([silence, samples])
        skipped = min(self._left_to_skip, len(samples))
        self._left_to_skip -= skipped
        begin_ns = time_ns + (skipped - self._pre_skip - fill) * _NS // SAMPLE_RATE
        return ((max(0, begin_ns), samples[skipped:]),) if skipped < len(samples) else ()

    def _fill(self, time_ns: int) -> int:
        """Return the samples of silence in place of packets without sound: as many as were in the
        packet before, for each, where the stamps leave that time."""
        fill = self._unfilled * self._length
        gap = (time_ns - self._end_ns) * SAMPLE_RATE // _NS if self._end_ns >= 0 else 0
        return fill if fill <= _MAX_FILL and gap >= fill // 2 else 0
