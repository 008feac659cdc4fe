"""A file in memory with a limit on the CPU time of the library that reads it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from time import thread_time

from model.media.types import TooLarge


class BoundedInput(io.BytesIO):
    """A file that reports its end once its reader has used `limit_s` seconds of CPU time.

    A megabyte of tags can take FFmpeg and libsndfile minutes, because they compare each tag with
    all previous ones. The CPU time of the calling thread between `start_clock` and `stop_clock`
    counts, and is checked at each read.
    """

    def __init__(self, data: bytes, limit_s: float) -> None:
        super().__init__(data)
        self.data = data  # getbuffer() would copy it
        self._limit_s = limit_s
        self._used_s = 0.0
        self._started_at: float | None = None
        self._is_exhausted = False

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Count the CPU time of a block.

        Raises TooLarge, instead of the block's own error, if the time is exhausted.
        """
        self.start_clock()
        try:
            yield
        finally:
            self.stop_clock()

    def start_clock(self) -> None:
        """Start counting CPU time."""
        self._started_at = thread_time()

    def stop_clock(self) -> None:
        """Stop counting CPU time. Raises TooLarge if it is exhausted."""
        if self._started_at is not None:
            self._used_s += thread_time() - self._started_at
        self._started_at = None
        if self._is_exhausted:
            raise TooLarge(
                f"reading its headers and packets takes more than {self._limit_s:g} s of CPU time",
                limit="max_demux_cpu_s",
            )

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as BytesIO; return nothing once the time is exhausted."""
        return b"" if self._check_clock() else super().read(size)

    def readinto(self, buffer, /) -> int:  # type: ignore[no-untyped-def]
        """Read as BytesIO; return 0 once the time is exhausted."""
        return 0 if self._check_clock() else super().readinto(buffer)

    def _check_clock(self) -> bool:
        """Return whether the time is exhausted."""
        if self._started_at is not None and not self._is_exhausted:
            used_s = self._used_s + thread_time() - self._started_at
            self._is_exhausted = used_s > self._limit_s
        return self._is_exhausted
