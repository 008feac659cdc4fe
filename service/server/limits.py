"""Limits of one HTTP connection."""

from __future__ import annotations

from dataclasses import dataclass

from service.settings import Settings

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class ConnectionLimits:
    """What one connection may cost.

    Times, in seconds: `head_timeout_s` from a request's first byte (on a new connection: from its
    start) to the end of its head; `send_timeout_s` from an answer's first byte that the kernel
    does not take to its last; `linger_s` from an answer given before the request's end to the
    connection's.

    `max_head_bytes` and `max_headers` bound a request's head. The framing of a chunked body (sizes,
    extensions, line ends, trailers) may have `framing_bytes` and as many bytes again as its
    content, and `max_head_bytes` in one run. Parser events (a header, a piece of a body, a read)
    that carry less than `bytes_per_event` are counted: `event_burst` of them may come at once and
    `events_per_s` in the long run; a connection that sends more is read more slowly. `slice_bytes`
    are parsed between two looks at that budget. `linger_bytes` of an unwanted body are read and
    dropped, `linger_bytes_per_s` in the long run.
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
    slice_bytes: int = 4 * KIB
    linger_bytes: int = 32 * MIB
    linger_bytes_per_s: int = 16 * MIB

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        """Those that an operator can set, and the others' defaults."""
        return cls(
            head_timeout_s=settings.head_timeout_s,
            send_timeout_s=settings.send_timeout_s,
            linger_s=settings.linger_s,
        )
