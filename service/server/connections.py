"""The open connections of a service, bounded in number."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from service.server.connection import Connection

log = logging.getLogger("scmrl.http")

Reason = Literal["refused", "evicted", "silent", "slow_head", "unread"]
#: Why the service ends connections: there are too many (this one, or the one idle longest), nothing
#: was sent, a head took too long, an answer was not read.
REASONS: tuple[Reason, ...] = get_args(Reason)


class Connections:
    """At most `maximum` connections at a time.

    A new one beyond that closes the one that has been idle longest, or is refused where none is
    idle: every one has a request in flight. A connection is idle until its first request's head is
    complete, between an answer and the next head, and behind its last answer. Used by the event
    loop alone.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        #: Connections that were ended by the service before their time, by reason.
        self.ended: Counter[Reason] = Counter()
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # in the order in which they became idle

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> bool:
        """Take in a new connection; False where it must be refused."""
        if len(self._open) >= self.maximum:
            if not self._idle:
                self.end("refused")
                log.warning(
                    "a connection was refused: %d are open, each with a request in flight "
                    "(SCMRL_MAX_CONNECTIONS)", len(self._open),
                )  # fmt: skip
                return False
            self.end("evicted")
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

    def set_idle(self, connection: Connection, idle: bool) -> None:
        """Note that a connection has no request in flight, or has one."""
        self._idle.pop(connection, None)
        if idle and connection in self._open:
            self._idle[connection] = None

    def remove(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def end(self, reason: Reason) -> None:
        """Count a connection that the service ends before its time."""
        self.ended[reason] += 1
