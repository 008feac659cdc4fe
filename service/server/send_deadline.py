"""How long a client may take to read an answer."""

from __future__ import annotations

from collections.abc import Callable

from service.server.channel import Channel
from service.server.timers import Timers


class SendLimit:
    """Calls `give_up` where an answer has not been taken by the kernel within `seconds`.

    The time runs from the moment at which the answer has bytes that the kernel does not take.
    """

    def __init__(
        self, channel: Channel, timers: Timers, seconds: float, give_up: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._timers = timers
        self._seconds = seconds
        self._give_up = give_up
        self._is_writing = False
        self._answer_end: int | None = None  # of the answer that is timed, once all is written

    def begin_answer(self) -> None:
        """Note that an answer is being written from now on."""
        if not self._channel.unsent_bytes:
            self._timers.cancel("send")
        self._is_writing = True

    def stall(self) -> None:
        """Note that the kernel does not take what is written."""
        if not self._timers.is_running("send"):
            self._answer_end = None if self._is_writing else self._channel.written_bytes
            self._timers.start("send", self._seconds, self._check)

    def end_answer(self) -> None:
        """Note that all of an answer has been written."""
        self._is_writing = False
        if not self._timers.is_running("send"):
            if self._channel.unsent_bytes:
                self.stall()
        elif self._answer_end is None:
            self._answer_end = self._channel.written_bytes

    def _check(self) -> None:
        unsent = self._channel.unsent_bytes
        taken = self._channel.written_bytes - unsent
        if self._answer_end is None or taken < self._answer_end:
            self._give_up()
        elif unsent:  # of a later answer
            self.stall()
