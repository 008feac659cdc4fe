"""Signals: SIGTERM and SIGINT drain and end the service, a second one ends it at once.

Imports the standard library only: `service.cli` sets the handlers before it imports anything slow.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import uvicorn

    from service.inference.in_flight import Counts
    from service.settings import Settings

#: Exit code of a service that stopped before all accepted requests were answered.
UNANSWERED = 3

#: Seconds between two checks of the requests in flight.
_POLL_S = 0.05
#: Seconds within which two signals count as one: a terminal signals a whole process group, and
#: `make` in it forwards its own.
_DEBOUNCE_S = 0.02
#: Seconds for the server to close its connections after a second signal.
_FORCED_EXIT_S = 1.0


class Signals:
    """The signals that this process has received. No lock: a handler may interrupt another."""

    def __init__(self) -> None:
        self.hangups = 0
        #: Number of accepted requests without an answer.
        self.unanswered: Callable[[], int] = lambda: 0
        self._first_at: float | None = None

    def handle(self) -> None:
        """Set the handlers for the rest of the process; in the main thread only.

        The first SIGTERM or SIGINT raises SystemExit; a second one ends the process at once. SIGHUP
        is counted. Without a handler, SIGTERM would not end the first process of a container. The
        server replaces the handlers of SIGTERM and SIGINT while it runs.
        """
        signal.signal(signal.SIGHUP, self._on_hangup)
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, self._on_stop)

    def count_stop(self) -> int:
        """Note SIGTERM or SIGINT; return 1 for the first, 2 for a later one, 0 for a duplicate."""
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            return 1
        return 2 if now - self._first_at > _DEBOUNCE_S else 0

    @property
    def exit_code(self) -> int:
        """The exit code of a process that was signalled to stop."""
        return UNANSWERED if self.unanswered() else 0

    def _on_hangup(self, sig: int, frame: FrameType | None) -> None:
        self.hangups += 1

    def _on_stop(self, sig: int, frame: FrameType | None) -> None:
        order = self.count_stop()
        if order == 1:
            raise SystemExit(0)
        if order == 2:
            os._exit(self.exit_code)


#: The signals of this process.
SIGNALS = Signals()


class Stoppable(Protocol):
    """What a signal ends."""

    def stop(self, within_s: int) -> None:
        """Answer what is in flight for up to `within_s` seconds, then end."""
        ...

    def stop_now(self) -> None:
        """End without waiting for anything."""
        ...


class UvicornServer:
    """A server in this process."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server

    def stop(self, within_s: int) -> None:
        self._server.config.timeout_graceful_shutdown = within_s
        self._server.should_exit = True

    def stop_now(self) -> None:
        self._server.should_exit = self._server.force_exit = True


class Stopping:
    """Drains a server on a signal: rejects new requests, answers those in flight, then ends it.

    The listener stays open meanwhile, so that a load balancer sees /readyz and 503. A second
    signal ends the process at once.
    """

    def __init__(
        self, server: Stoppable, in_flight: Counts, settings: Settings, signals: Signals
    ) -> None:
        self._server = server
        self._in_flight = in_flight
        self._settings = settings
        self._signals = signals
        signals.unanswered = lambda: in_flight.unanswered

    def on_signal(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM and SIGINT."""
        order = self._signals.count_stop()
        if order == 1:
            self._in_flight.drain()
            threading.Thread(
                target=self._finish, args=[sig], name="scmrl-stop", daemon=True
            ).start()
        elif order == 2:
            self._server.stop_now()
            threading.Thread(target=self._end_soon, name="scmrl-stop", daemon=True).start()

    def _finish(self, sig: int) -> None:
        import logging  # here: it would delay the first handlers

        log = logging.getLogger("scmrl.shutdown")
        name, in_flight = signal.Signals(sig).name, self._in_flight.total
        log.info("%s: the service is shutting down; requests in flight: %d", name, in_flight)
        end = time.monotonic() + self._settings.shutdown_grace_s
        time.sleep(self._settings.shutdown_delay_s)
        while self._in_flight.total and time.monotonic() < end:
            time.sleep(_POLL_S)
        # A server waits for open connections too: both waits share the grace period.
        self._server.stop(max(1, round(end - time.monotonic())))

    def _end_soon(self) -> None:
        """End the process, even if threads are blocked."""
        time.sleep(_FORCED_EXIT_S)
        os._exit(self._signals.exit_code)
