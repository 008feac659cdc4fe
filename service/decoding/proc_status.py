"""Signs of life of another process, as Linux shows them under /proc.

Where there is no /proc, or it hides other users' processes, every process counts as alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.decoding.wire import PeerLost

#: States of a process that a signal or a debugger has stopped.
_STOPPED = frozenset("Tt")
_SLEEPING = "S"
#: Looks, one after the other, at which a process that has something to do may be asleep.
_ASLEEP_LOOKS = 6


class Unresponsive(PeerLost):
    """The process lives and does nothing: its job is not to blame."""


@dataclass(frozen=True)
class _Status:
    """The state by its letter, and the CPU time used so far in clock ticks."""

    state: str
    ticks: int


class ProcStatus:
    """What is known of the process `pid` while it is waited for; a new one for each wait."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._ticks = -1
        self._asleep = 0

    def check_not_stopped(self) -> None:
        """Raise Unresponsive where the process is stopped."""
        self._status()

    def check_awake(self) -> None:
        """Raise Unresponsive where the process is stopped, or sleeps at every look for a while.

        For a process that has something to do. One that waits for a CPU or a disk is awake.
        """
        status = self._status()
        if status is None:
            return
        is_asleep = status.state == _SLEEPING and status.ticks == self._ticks
        self._asleep = self._asleep + 1 if is_asleep else 0
        self._ticks = status.ticks
        if self._asleep >= _ASLEEP_LOOKS:
            raise Unresponsive("it hangs")

    def _status(self) -> _Status | None:
        """None where the system does not say. Raises Unresponsive where it is stopped."""
        try:
            fields = self._stat.read_text().rpartition(")")[2].split()
            status = _Status(fields[0], int(fields[11]) + int(fields[12]))
        except (OSError, ValueError, IndexError):
            return None
        if status.state in _STOPPED:
            raise Unresponsive("it is stopped, by a signal or a debugger")
        return status
