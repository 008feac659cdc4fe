"""Limit the work that the pictures of a video require: pixels, scans, inflated bytes."""

from __future__ import annotations

import threading
from typing import Any

from av.packet import Packet

from model.media.headers import jpeg, png
from model.media.types import Limits, TooLarge

#: FFmpeg's codecs whose packets are JPEGs or contain them.
_JPEG_CODECS = frozenset(("mjpeg", "amv", "thp", "smvjpeg", "mxpeg", "sp5x", "tiff"))
#: Codecs whose packets are PNGs.
_PNG_CODECS = frozenset(("png",))
#: Scans of a JPEG with separate colour components. A JPEG with more is progressive.
_BASELINE_SCANS = 3


class DecodeBudget:
    """What remains of the limits for one video. Thread-safe."""

    def __init__(self, packets: int, limits: Limits) -> None:
        """`packets` is the number of packets that will be decoded."""
        self._packets = packets
        self._limits = limits
        self._pixels = limits.max_decoded_pixels
        self._scan_pixels = limits.max_composed_pixels
        self._inflated_bytes = limits.max_inflated_bytes
        self._lock = threading.Lock()

    def check_remaining(self, width: int, height: int) -> None:
        """Raise TooLarge if the remaining packets, at this size, exceed the pixels."""
        if self._packets * width * height > self._pixels:
            raise self._too_many_pixels(f"{self._packets} frames", width, height)

    def check_packet(self, packet: Packet[Any], codec: str, width: int, height: int) -> None:
        """Raise TooLarge if a packet has too many scans, or inflates to too many bytes."""
        if codec in _JPEG_CODECS:
            self._check_scans(bytes(packet), width, height)
        if codec in _PNG_CODECS:
            with self._lock:
                self._inflated_bytes = png.remaining_after(
                    bytes(packet), self._inflated_bytes, self._limits
                )

    def count_packet(self, width: int, height: int) -> None:
        """Count a packet that was decoded, to a frame of this size. Raises TooLarge."""
        with self._lock:
            self._packets -= 1
            self._pixels -= width * height
            # Damaged packets may be decoded again, from an earlier key frame.
            self._packets = max(0, self._packets)
        if self._pixels < 0:
            raise self._too_many_pixels("too many frames", width, height)
        self.check_remaining(width, height)

    def _too_many_pixels(self, frames: str, width: int, height: int) -> TooLarge:
        return TooLarge(
            f"reading its pictures requires decoding {frames} of {width} x {height} pixels; "
            f"width x height x frames may be at most {self._limits.max_decoded_pixels} pixels",
            limit="max_decoded_pixels",
        )

    def _check_scans(self, data: bytes, width: int, height: int) -> None:
        jpeg_width, jpeg_height = jpeg.read_size(data)
        pixels = max(width * height, jpeg_width * jpeg_height)
        with self._lock:
            self._scan_pixels -= max(0, jpeg.count_scans(data) - _BASELINE_SCANS) * pixels
        if self._scan_pixels < 0:
            raise TooLarge(
                "its JPEG frames have too many scans; width x height x scans may be at most "
                f"{self._limits.max_composed_pixels} pixels",
                limit="max_composed_pixels",
            )
