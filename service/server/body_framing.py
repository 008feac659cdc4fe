"""A limit on the framing of chunked bodies."""

from __future__ import annotations


class BodyFraming:
    """Counts the bytes of framing and of content of one body.

    Framing is all of a body except its content: chunk sizes, chunk extensions, line ends and
    trailers. It may have `free_bytes` plus as many bytes as the content, and at most `run_bytes`
    without content between them.
    """

    def __init__(self, free_bytes: int, run_bytes: int) -> None:
        self._free_bytes = free_bytes
        self._run_bytes = run_bytes
        self.begin()

    def begin(self) -> None:
        """Reset the counts for a new body."""
        self._sent = 0
        self._content = 0
        self._run = 0

    def add_content(self, size: int) -> None:
        """Count content; `add_piece` has to be called for the same bytes afterwards."""
        self._content += size
        self._run = 0

    def add_piece(self, size: int) -> None:
        """Count a piece of the body as received, with its framing."""
        self._sent += size
        self._run += size

    def fault(self) -> str | None:
        """Return why the body is refused, or None."""
        if self._run > self._run_bytes:
            return (
                f"a chunk size with its extensions, or the trailers, have more than "
                f"{self._run_bytes} bytes"
            )
        framing = self._sent - self._content
        if framing > self._free_bytes + self._content:
            return (
                f"{framing} bytes of chunk framing for {self._content} bytes of content; send "
                "larger chunks"
            )
        return None
