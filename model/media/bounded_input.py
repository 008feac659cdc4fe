"""A file in memory that a library may work on for a limited CPU time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from time import thread_time

from model.media.types import TooLarge


class BoundedInput(io.BytesIO):
    """A file that ends early for a reader that has used up `limit_s` seconds of CPU time.

    A megabyte of tags can take FFmpeg and libsndfile minutes: they compare each with all before
    it. Only the CPU time of the calling thread within `measured` counts, at each read.
    """

    def __init__(self, data: bytes, limit_s: float) -> None:
        super().__init__(data)
        self.data = data  # getbuffer() would copy it
        self._limit_s = limit_s
        self._used_s = 0.0
        self._since: float | None = None
        self._is_spent = False

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count the CPU time of this block. Raises TooLarge, in place of what the block raises,
        where the time is used up."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        """Begin to count."""
        self._since = thread_time()

    def end(self) -> None:
        """End to count. Raises TooLarge where the time is used up."""
        if self._since is not None:
            self._used_s += thread_time() - self._since
        self._since = None
        if self._is_spent:
            raise TooLarge(
                f"to find its headers and packets takes more than {self._limit_s:g} s of CPU time, "
                "which is the most that is accepted (max_demux_cpu_s)"
            )

    def read(self, size: int | None = -1, /) -> bytes:
        """As BytesIO; nothing once the time is used up."""
        return b"" if self._ends() else super().read(size)

    def readinto(self, buffer, /) -> int:  # type: ignore[no-untyped-def]
        """As BytesIO; nothing once the time is used up."""
        return 0 if self._ends() else super().readinto(buffer)

    def _ends(self) -> bool:
        if self._since is not None and not self._is_spent:
            self._is_spent = self._used_s + thread_time() - self._since > self._limit_s
        return self._is_spent
