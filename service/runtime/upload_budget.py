"""The bytes of all uploads in memory, of every protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Error, Problem


class UploadBudget:
    """Counts the bytes of requests that are not answered yet, up to `max_bytes`. Used by the event
    loop alone.

    `count` adds bytes to those of other processes as well, and returns the sum of all.
    """

    def __init__(self, max_bytes: int, count: Callable[[int], int] | None = None) -> None:
        self.max_bytes = max_bytes
        self.total = 0
        self._count = self._count_here if count is None else count

    def add(self, size: int) -> None:
        """Count bytes until `remove`.

        Raises Problem FULL where all together are too many; these are counted nevertheless.
        """
        if self._count(size) > self.max_bytes:
            detail = (
                f"The uploads of all clients together exceed {self.max_bytes} bytes "
                "(SCMRL_MAX_TOTAL_UPLOAD_BYTES). Retry after the time in Retry-After."
            )
            raise Problem(Error.FULL, detail, retry_after_s=1)

    def remove(self, size: int) -> None:
        """Forget bytes that were counted."""
        self._count(-size)

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Count bytes until the block ends. Raises Problem FULL."""
        try:
            self.add(size)
            yield
        finally:
            self.remove(size)

    def _count_here(self, size: int) -> int:
        self.total += size
        return self.total
