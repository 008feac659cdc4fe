"""Decode H.264 packets of a live stream."""

from __future__ import annotations

from typing import Any

import av
import av.error
from av.video.frame import VideoFrame

from model.arrays import UInt8Array
from model.media.live import annex_b
from model.media.live.sequence import Sequence
from model.media.live.types import Decoded, Outcome, Packet
from model.media.types import Limits, Unusable
from model.media.video.frames import to_rgb

#: Most packets between one that is decoded and the picture that is shown: H.264 reorders 16.
_MAX_DELAY = 64

#: Pictures by capture time in ns.
Pieces = tuple[tuple[int, UInt8Array], ...]


class H264Decoder:
    """Decodes access units in Annex B, one a packet, to RGB pictures.

    `spacing_ns`: pictures that follow the one before by less are decoded, as others refer to them,
    but not returned. `max_pixels`: of a returned picture; a larger one is shrunk.

    After a gap or damage, packets are dropped until one has a sequence parameter set or an IDR
    picture, as encoders send at each key frame. Pictures that are held back, since others may come
    between (B-frames), are returned at a gap and at the end of the input.
    """

    def __init__(self, limits: Limits, spacing_ns: int, max_pixels: int) -> None:
        self._limits = limits
        self._spacing_ns = spacing_ns
        self._max_pixels = max_pixels
        self._context = self._decoder()
        self._sequence = Sequence()
        self._waits_for_key = True
        self._count = 0
        self._times: dict[int, int] = {}  # capture times by the number of the packet
        self._shown_ns: int | None = None

    def decode(self, packet: Packet) -> Decoded[UInt8Array]:
        """Decode a packet; never raises for its content."""
        if packet.is_end:
            delayed = self._flush()
            self._wait_for_key()
            return Decoded(Outcome.DECODED, 0, delayed)
        missing = self._sequence.missing(packet)
        if missing is None:
            return Decoded(Outcome.LATE)
        if packet.restarts:
            self._times.clear()  # so that no picture of before is returned
        delayed = ()
        if missing:
            delayed = self._flush()
            self._wait_for_key()
        outcome, pieces = self._decode(packet)
        if outcome not in (Outcome.DECODED, Outcome.NO_KEY):
            self._wait_for_key()
            if parameters := annex_b.parameter_sets(packet.data):
                # One that failed with other parameters may keep the memory that it took for them.
                del self._context
                self._context = self._decoder(parameters)
        return Decoded(outcome, missing, delayed + pieces)

    def _decoder(self, parameters: bytes = b"") -> Any:
        """Return a decoder that knows parameter sets in Annex B."""
        context: Any = av.CodecContext.create("h264", "r")
        context.thread_count = 1
        context.options = {"max_pixels": str(self._limits.max_pixels)}
        context.extradata = parameters or None
        return context

    def _decode(self, packet: Packet) -> tuple[Outcome, Pieces]:
        units = annex_b.units(packet.data)
        if not units:
            return Outcome.DAMAGED, ()
        sizes = [annex_b.picture_size(unit.payload) for unit in units if unit.type == annex_b.SPS]
        if any(size and size[0] * size[1] > self._limits.max_pixels for size in sizes):
            return Outcome.TOO_LARGE, ()
        if self._waits_for_key and not any(u.type in (annex_b.IDR, annex_b.SPS) for u in units):
            return Outcome.NO_KEY, ()
        try:
            frames = self._context.decode(self._packet(packet))
            pieces = self._pieces(frames)
        except MemoryError:
            return Outcome.TOO_LARGE, ()
        except (av.error.FFmpegError, Unusable):
            return Outcome.DAMAGED, ()
        if any(frame.is_corrupt for frame in frames):
            return Outcome.DAMAGED, ()
        self._waits_for_key = False
        return Outcome.DECODED, pieces

    def _packet(self, packet: Packet) -> Any:
        coded = av.Packet(packet.data)
        coded.pts = coded.dts = self._count
        self._times[self._count] = packet.time_ns
        self._times.pop(self._count - _MAX_DELAY, None)
        self._count += 1
        return coded

    def _flush(self) -> Pieces:
        """Return the pictures that are held back. The decoder then takes no packet until it is
        flushed."""
        try:
            frames = self._context.decode(None)
            return self._pieces([frame for frame in frames if not frame.is_corrupt])
        except (av.error.FFmpegError, Unusable, MemoryError):
            return ()

    def _pieces(self, frames: list[VideoFrame]) -> Pieces:
        """Return pictures with their capture times, without those that follow too soon."""
        pieces = []
        for frame in frames:
            time_ns = self._times.get(frame.pts) if frame.pts is not None else None
            before = self._shown_ns
            if time_ns is None or (before is not None and 0 <= time_ns - before < self._spacing_ns):
                continue
            self._shown_ns = time_ns
            aspect = float(self._context.sample_aspect_ratio or 1)
            pieces.append((time_ns, to_rgb(frame, aspect, self._max_pixels)))
        return tuple(pieces)

    def _wait_for_key(self) -> None:
        self._context.flush_buffers()
        self._waits_for_key = True
