"""How much the pictures of a video ask their decoder to do: pixels, scans, inflated bytes."""

from __future__ import annotations

import threading
from typing import Any

from av.packet import Packet

from model.media.headers import jpeg, png
from model.media.types import Limits, TooLarge

#: FFmpeg's codecs whose packets are JPEGs, or hold some.
_JPEGS = frozenset(("mjpeg", "amv", "thp", "smvjpeg", "mxpeg", "sp5x", "tiff"))
#: Codecs whose packets are PNGs.
_PNGS = frozenset(("png",))
#: Scans that a picture has whose colours are apart; more are progressive.
_PLAIN_SCANS = 3


class Work:
    """What is left of the limits for one video, whose `packets` are to be decoded.

    Several threads may decode.
    """

    def __init__(self, packets: int, limits: Limits) -> None:
        self._packets = packets
        self._limits = limits
        self._pixels = limits.max_decoded_pixels
        self._scanned = limits.max_composed_pixels
        self._inflated = limits.max_inflated_bytes
        self._lock = threading.Lock()

    def expect(self, width: int, height: int) -> None:
        """Raise TooLarge where all packets that are left would have too many pixels."""
        if self._packets * width * height > self._pixels:
            raise self._too_many(f"{self._packets}", width, height)

    def _too_many(self, frames: str, width: int, height: int) -> TooLarge:
        return TooLarge(
            f"for its pictures {frames} frames of {width} x {height} pixels would have to be "
            f"decoded; width x height x frames may be at most {self._limits.max_decoded_pixels} "
            "pixels (max_decoded_pixels)"
        )

    def check_packet(self, packet: Packet[Any], codec: str, width: int, height: int) -> None:
        """Raise TooLarge where a packet holds too many scans, or inflates to too much."""
        if codec in _JPEGS:
            self._check_scans(bytes(packet), width, height)
        if codec in _PNGS:
            with self._lock:
                self._inflated = png.left_after(bytes(packet), self._inflated, self._limits)

    def note(self, width: int, height: int) -> None:
        """Count a packet that was decoded, to a frame of this size."""
        with self._lock:
            self._packets -= 1
            self._pixels -= width * height
            # Damaged packets may be decoded again, from an earlier key frame on.
            self._packets = max(0, self._packets)
        if self._pixels < 0:
            raise self._too_many("more", width, height)
        self.expect(width, height)

    def _check_scans(self, data: bytes, width: int, height: int) -> None:
        own_width, own_height = jpeg.size(data)
        pixels = max(width * height, own_width * own_height)
        with self._lock:
            self._scanned -= max(0, jpeg.scans(data) - _PLAIN_SCANS) * pixels
        if self._scanned < 0:
            raise TooLarge(
                f"the JPEGs in it have so many scans that width x height x scans is more than "
                f"{self._limits.max_composed_pixels} pixels (max_composed_pixels)"
            )
