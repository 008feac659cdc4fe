"""A limit on repeated log lines: the first ones are written, the others are counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suppressed:
    """Lines that were not written: their count, the seconds that they span, and the last text."""

    count: int
    seconds: float
    text: str


@dataclass
class _Window:
    """The lines of one source since `began`, in seconds of the clock."""

    began: float
    texts: set[str] = field(default_factory=set)
    suppressed: int = 0
    last_suppressed: str = ""


class RepeatLimit:
    """Admits each text of a source once per window, and at most `max_texts` different ones.

    A source is a place in the code; its texts differ by process numbers, names and the like. A
    window begins with the first line of a source and lasts `window_s` seconds.
    """

    def __init__(
        self,
        window_s: float = 60.0,
        max_texts: int = 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window_s = window_s
        self._max_texts = max_texts
        self._clock = clock
        self._windows: dict[Hashable, _Window] = {}

    def admit(self, source: Hashable, text: str) -> bool:
        """Return whether this line may be written; count it if not."""
        window = self._windows.setdefault(source, _Window(self._clock()))
        if text not in window.texts and len(window.texts) < self._max_texts:
            window.texts.add(text)
            return True
        window.suppressed += 1
        window.last_suppressed = text
        return False

    def ended(self, all_windows: bool = False) -> Iterator[Suppressed]:
        """End the windows that are over, or all of them; yield what each suppressed."""
        now = self._clock()
        while self._windows:
            source, window = next(iter(self._windows.items()))  # the oldest
            seconds = now - window.began
            if not all_windows and seconds < self._window_s:
                return
            del self._windows[source]
            if window.suppressed:
                yield Suppressed(window.suppressed, seconds, window.last_suppressed)
