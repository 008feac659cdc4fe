"""What signals do to a service, from its first moment to its last."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from service.settings import Settings

if TYPE_CHECKING:
    import uvicorn

    from service.registry import Registry

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds between two looks at whether all requests are answered.
_LOOK_S = 0.05
#: Signals that come within this are one: a terminal or a supervisor signals a whole group of
#: processes, and `make`, which is among them, passes on what it gets.
_SAME_S = 0.02
#: Seconds that the server has to close what is open after a second signal.
_AT_ONCE_S = 1.0


class _Hangups:
    """Counts SIGHUPs; no lock, since a handler may interrupt another."""

    def __init__(self) -> None:
        self.count = 0

    def on_signal(self, sig: int, frame: FrameType | None) -> None:
        self.count += 1


_hangups = _Hangups()


def hangups() -> int:
    """How many SIGHUPs have come."""
    return _hangups.count


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the process in order, with exit code 0, where a signal comes in the block.

    A second signal ends it at once. SIGHUP is counted.
    As the first process of a container it would not be ended by SIGTERM otherwise. Handlers can be
    set in the main thread alone: elsewhere signals do what they did before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = {sig: signal.getsignal(sig) for sig in (*_SIGNALS, signal.SIGHUP)}
    begun_at: float | None = None

    def end(sig: int, frame: FrameType | None) -> None:
        nonlocal begun_at
        now = time.monotonic()
        if begun_at is None:
            begun_at = now
            before.clear()  # the handlers stay until the process has ended
            raise SystemExit(0)
        if now - begun_at > _SAME_S:
            os._exit(0)

    for sig in _SIGNALS:
        signal.signal(sig, end)
    signal.signal(signal.SIGHUP, _hangups.on_signal)
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


class Stopping:
    """What a signal does to a server: new requests are refused while those inside are answered,
    then it ends. The listener stays open meanwhile, so that a load balancer is told, by /readyz
    and by each 503. A second signal ends it at once."""

    def __init__(self, server: uvicorn.Server, registry: Registry, settings: Settings) -> None:
        self._server = server
        self._registry = registry
        self._settings = settings
        self._begun_at: float | None = None

    def on_signal(self, sig: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM and SIGINT."""
        now = time.monotonic()
        if self._begun_at is None:
            self._begun_at = now
            self._registry.drain()
            threading.Thread(target=self._finish, name="scmrl-stop", daemon=True).start()
        elif now - self._begun_at > _SAME_S:
            self._server.should_exit = self._server.force_exit = True
            threading.Thread(target=_end_soon, name="scmrl-stop", daemon=True).start()

    def _finish(self) -> None:
        end = time.monotonic() + self._settings.shutdown_grace_s
        time.sleep(self._settings.shutdown_delay_s)
        while self._registry.in_use and time.monotonic() < end:
            time.sleep(_LOOK_S)
        # uvicorn waits for connections that are open still: both together have the grace period.
        self._server.config.timeout_graceful_shutdown = max(1, round(end - time.monotonic()))
        self._server.should_exit = True


def _end_soon() -> None:
    """End the process, whatever its threads wait for."""
    time.sleep(_AT_ONCE_S)
    os._exit(0)
