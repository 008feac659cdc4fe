"""What the framing of a chunked body may cost."""

from __future__ import annotations


class Framing:
    """Compares the bytes of one body's framing with those of its content.

    Framing is what a body has beside its content: chunk sizes, chunk extensions, line ends and
    trailers. It may have `free_bytes` and as many bytes again as the content, and `run_bytes`
    without any content between them.
    """

    def __init__(self, free_bytes: int, run_bytes: int) -> None:
        self._free_bytes = free_bytes
        self._run_bytes = run_bytes
        self.begin()

    def begin(self) -> None:
        """Start to count for a new body."""
        self._sent = 0
        self._content = 0
        self._run = 0

    def add_content(self, size: int) -> None:
        """Count content, of a piece that `add_piece` is called with afterwards."""
        self._content += size
        self._run = 0

    def add_piece(self, size: int) -> None:
        """Count a piece of the body as it was sent."""
        self._sent += size
        self._run += size

    def fault(self) -> str | None:
        """Why the body is refused; None where it is not."""
        if self._run > self._run_bytes:
            return (
                f"a chunk's size with its extensions, or the trailers, have more than "
                f"{self._run_bytes} bytes"
            )
        framing = self._sent - self._content
        if framing > self._free_bytes + self._content:
            return (
                f"{framing} bytes of chunk sizes and line ends frame {self._content} bytes of "
                "body; send larger chunks"
            )
        return None
