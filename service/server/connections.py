"""The open connections of a service, limited in number."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Literal, Protocol, get_args

log = logging.getLogger("scmrl.http")

Reason = Literal["refused", "evicted", "silent", "slow_head", "unread"]
#: Why the service ended a connection: too many are open (`refused`: the new one; `evicted`: the one
#: that has been idle longest), the client sent nothing, sent a head too slowly, or did not read the
#: response.
REASONS: tuple[Reason, ...] = get_args(Reason)


class Closable(Protocol):
    """A connection, of HTTP or of a WebSocket."""

    def evict(self) -> None:
        """Close it at once, as it is idle and another one needs its place."""


class Connections:
    """At most `maximum` open connections.

    A new one beyond that evicts the connection that has been idle longest. It is refused where none
    is idle, that is, where each has a request in flight. A connection is idle until the head of its
    first request is complete, between a response and the next head, and after its last response. A
    WebSocket is not idle while it is open.

    Not thread-safe: for the event loop only.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        #: Connections ended early by the service, by reason.
        self.ended: Counter[Reason] = Counter()
        self._open: set[Closable] = set()
        self._idle: dict[Closable, None] = {}  # in the order in which they became idle

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Closable) -> bool:
        """Add a new connection; return False where it must be refused."""
        if len(self._open) >= self.maximum:
            if not self._idle:
                self.count_ended("refused")
                log.warning(
                    "a connection was refused: %d are open, each with a request in flight "
                    "(SCMRL_MAX_CONNECTIONS)", len(self._open),
                )  # fmt: skip
                return False
            self.count_ended("evicted")
            log.warning(
                "the connection that was idle longest was closed for a new one: %d are open "
                "(SCMRL_MAX_CONNECTIONS)", len(self._open),
            )  # fmt: skip
            longest_idle = next(iter(self._idle))
            self.remove(longest_idle)
            longest_idle.evict()
        self._open.add(connection)
        self._idle[connection] = None
        return True

    def set_idle(self, connection: Closable, idle: bool) -> None:
        """Mark a connection as idle, or as having a request in flight."""
        self._idle.pop(connection, None)
        if idle and connection in self._open:
            self._idle[connection] = None

    def remove(self, connection: Closable) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def replace(self, connection: Closable, successor: Closable) -> None:
        """Let a successor have the place of an open connection; it is not idle."""
        self.remove(connection)
        self._open.add(successor)

    def count_ended(self, reason: Reason) -> None:
        """Count a connection that the service ends early."""
        self.ended[reason] += 1
