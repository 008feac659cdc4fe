"""The capture times of one input: in order, late, or of a clock that has jumped or restarted."""

from __future__ import annotations

#: Most pictures that H.264 decodes before one that is shown earlier.
MAX_REORDERED = 16

_NS = 1_000_000_000
#: By how much the stamps of late messages advance, none in order among them, where their clock has
#: restarted, in ns.
_RESTART_NS = _NS // 2


class InputClock:
    """Follows the capture times of an input's messages in ns.

    Args:
        jump_s: Seconds between two messages beyond which they are of two segments.
        reordered: Most messages in a row that may be stamped earlier than one before them though
            the clock goes on, as pictures in the order of decoding are.
    """

    def __init__(self, jump_s: float, reordered: int = 0) -> None:
        self.newest_ns = -1
        self._jump_ns = jump_s * _NS
        self._reordered = reordered
        self._first_late_ns = -1  # since the last message in order
        self._late = 0  # messages since then

    def begins_segment(self, time_ns: int) -> bool:
        """Return whether a message of this time would not be of the segment so far.

        Its time jumps; or only late messages have come since the newest, and their own times have
        advanced by half a second, so that the clock was put back.
        """
        if self.newest_ns < 0:
            return False
        is_late = time_ns < self.newest_ns and self._late >= self._reordered
        if is_late and 0 <= self._first_late_ns <= time_ns - _RESTART_NS:
            return True
        return abs(time_ns - self.newest_ns) > self._jump_ns

    def add(self, time_ns: int) -> None:
        """Take the time of a message of this segment."""
        if time_ns >= self.newest_ns:
            self.newest_ns = time_ns
            self._first_late_ns, self._late = -1, 0
            return
        if self._late == 0:
            self._first_late_ns = time_ns
        self._late += 1

    def clear(self) -> None:
        """Forget all times: the next may be any."""
        self.newest_ns = self._first_late_ns = -1
        self._late = 0
