"""What signals do to a service, from its first moment to its last.

Imports the standard library only: `service.cli` sets the handlers before all that takes time.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn

    from service.inference.in_flight import InFlight
    from service.settings import Settings

#: Exit code of a service that was told to stop and left accepted requests without an answer.
UNANSWERED = 3

#: Seconds between two looks at whether all requests are answered.
_LOOK_S = 0.05
#: Signals that come within this are one: a terminal or a supervisor signals a whole group of
#: processes, and `make`, which is among them, passes on what it gets.
_SAME_S = 0.02
#: Seconds that the server has to close what is open after a second signal.
_AT_ONCE_S = 1.0


class Signals:
    """The signals that this process has got. No lock: a handler may interrupt another."""

    def __init__(self) -> None:
        self.hangups = 0
        #: How many accepted requests have no answer.
        self.unanswered: Callable[[], int] = lambda: 0
        self._first_at: float | None = None

    def handle(self) -> None:
        """Set the handlers for the rest of the process; in the main thread only.

        SIGTERM and SIGINT end it in order, by SystemExit; the second one ends it at once. SIGHUP
        is counted. As the first process of a container it would not be ended by SIGTERM without
        a handler. The server replaces the first two while it runs.
        """
        signal.signal(signal.SIGHUP, self._on_hangup)
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, self._on_end)

    def note_end(self) -> int:
        """Note a signal that asks for the end; its place: 1 for the first, 2 for a later one, 0
        for one that belongs to the first."""
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            return 1
        return 2 if now - self._first_at > _SAME_S else 0

    @property
    def exit_code(self) -> int:
        """The code of a process that has been told to stop."""
        return UNANSWERED if self.unanswered() else 0

    def _on_hangup(self, sig: int, frame: FrameType | None) -> None:
        self.hangups += 1

    def _on_end(self, sig: int, frame: FrameType | None) -> None:
        place = self.note_end()
        if place == 1:
            raise SystemExit(0)
        if place == 2:
            os._exit(self.exit_code)


#: Of this process.
SIGNALS = Signals()


class Stopping:
    """What a signal does to a server: new requests are refused while those inside are answered,
    then it ends. The listener stays open meanwhile, so that a load balancer is told, by /readyz
    and by each 503. A second signal ends it at once."""

    def __init__(
        self, server: uvicorn.Server, in_flight: InFlight, settings: Settings, signals: Signals
    ) -> None:
        self._server = server
        self._in_flight = in_flight
        self._settings = settings
        self._signals = signals
        signals.unanswered = lambda: in_flight.unanswered

    def on_signal(self, sig: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM and SIGINT."""
        place = self._signals.note_end()
        if place == 1:
            self._in_flight.drain()
            threading.Thread(target=self._finish, name="scmrl-stop", daemon=True).start()
        elif place == 2:
            self._server.should_exit = self._server.force_exit = True
            threading.Thread(target=self._end_soon, name="scmrl-stop", daemon=True).start()

    def _finish(self) -> None:
        end = time.monotonic() + self._settings.shutdown_grace_s
        time.sleep(self._settings.shutdown_delay_s)
        while self._in_flight.total and time.monotonic() < end:
            time.sleep(_LOOK_S)
        # uvicorn waits for connections that are open still: both together have the grace period.
        self._server.config.timeout_graceful_shutdown = max(1, round(end - time.monotonic()))
        self._server.should_exit = True

    def _end_soon(self) -> None:
        """End the process, whatever its threads wait for."""
        time.sleep(_AT_ONCE_S)
        os._exit(self._signals.exit_code)
