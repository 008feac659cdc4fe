"""Limits of one HTTP connection."""

from __future__ import annotations

from dataclasses import dataclass

from service.settings import Settings

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of one HTTP connection.

    Attributes:
        head_timeout_s: Seconds from the first byte of a request (on a new connection: from its
            start) to the end of its headers.
        send_timeout_s: Seconds from the first byte of a response that the kernel does not accept
            to its last.
        linger_s: Seconds from a response that is sent before the request's end to the end of the
            connection.
        max_head_bytes: Bytes of the request line and headers, and of a run of framing without
            content.
        max_headers: Header lines of a request.
        framing_bytes: Bytes that the framing of a chunked body (sizes, extensions, line ends,
            trailers) may have beyond as many as its content has.
        bytes_per_event: Parser events (a header, a piece of a body, a read) that carry fewer bytes
            are counted. A connection with too many of them is read more slowly.
        event_burst: Counted events at once.
        events_per_s: Counted events per second in the long run.
        read_burst: Reads of fewer than `bytes_per_event` bytes within a request at once. Further
            ones wait, while the kernel collects what arrives for the next read.
        reads_per_s: Such reads per second in the long run.
        pipelined_burst: Requests at once that are sent before an earlier one is answered.
        pipelined_per_s: Such requests per second in the long run.
        slice_bytes: Bytes that are parsed between two checks of the counted events.
        linger_bytes: Bytes that are read and dropped after a response.
        linger_bytes_per_s: Rate of that in the long run, in bytes per second.
        max_message_bytes: Bytes of one message of a WebSocket.
    """

    head_timeout_s: float = 10.0
    send_timeout_s: float = 60.0
    linger_s: float = 5.0
    max_head_bytes: int = 32 * KIB
    max_headers: int = 100
    framing_bytes: int = 64 * KIB
    bytes_per_event: int = KIB
    event_burst: int = 4000
    events_per_s: int = 4000
    read_burst: int = 200
    reads_per_s: int = 100
    pipelined_burst: int = 200
    pipelined_per_s: int = 100
    slice_bytes: int = 4 * KIB
    linger_bytes: int = 32 * MIB
    linger_bytes_per_s: int = 16 * MIB
    max_message_bytes: int = MIB

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        """Return the limits that an operator can set, and defaults for the others."""
        return cls(
            head_timeout_s=settings.head_timeout_s,
            send_timeout_s=settings.send_timeout_s,
            linger_s=settings.linger_s,
        )
