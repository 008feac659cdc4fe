"""Detect whether another process is stopped or hangs, by its state under /proc on Linux.

Without /proc, or where it hides the processes of other users, every process counts as alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.decoding.wire import PeerLost

#: States of a process stopped by a signal or a debugger.
_STOPPED = frozenset("Tt")
_SLEEPING = "S"
#: Consecutive checks at which a process that has a job may be asleep.
_MAX_ASLEEP_CHECKS = 6


class Unresponsive(PeerLost):
    """The process is alive but does nothing; its job is not the cause."""


@dataclass(frozen=True)
class _Status:
    """`state`: its letter in /proc/PID/stat; `ticks`: CPU time used so far, in clock ticks."""

    state: str
    ticks: int


class ProcStatus:
    """Watches the process `pid` during one wait for it; make a new one for each wait."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._ticks = -1
        self._asleep_checks = 0

    def check_not_stopped(self) -> None:
        """Raise Unresponsive where the process is stopped."""
        self._read()

    def check_awake(self) -> None:
        """Raise Unresponsive where a process is stopped, or was asleep at the last checks.

        For a process that has a job. One that waits for a CPU or a disk is not asleep.
        """
        status = self._read()
        if status is None:
            return
        is_asleep = status.state == _SLEEPING and status.ticks == self._ticks
        self._asleep_checks = self._asleep_checks + 1 if is_asleep else 0
        self._ticks = status.ticks
        if self._asleep_checks >= _MAX_ASLEEP_CHECKS:
            raise Unresponsive("it hangs")

    def _read(self) -> _Status | None:
        """Return the status, or None where it cannot be read. Raises Unresponsive where stopped."""
        try:
            fields = self._stat.read_text().rpartition(")")[2].split()
            status = _Status(fields[0], int(fields[11]) + int(fields[12]))
        except (OSError, ValueError, IndexError):
            return None
        if status.state in _STOPPED:
            raise Unresponsive("it is stopped, by a signal or a debugger")
        return status
