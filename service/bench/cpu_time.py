"""CPU time of a server by process and kind of thread, from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
#: Clock ticks a second, in which the kernel counts CPU time.
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: A service is idle where it uses less than this share of a core over the window, in seconds.
_IDLE_SHARE, _IDLE_WINDOW_S, _IDLE_TIMEOUT_S = 0.02, 2.0, 60.0
#: Kinds of threads of the main process, by the beginning of their names; its first thread runs the
#: event loop. The others' time includes that of threads that have ended.
_MAIN_THREADS = (
    ("scmrl-engine", "batch worker"),
    ("scmrl-fused", "network"),
    ("scmrl-decode", "hand-over to decoders"),
)
EVENT_LOOP, OTHER_THREADS = "event loop", "other threads"
#: The event loop of the main process where HTTP workers have those of the connections.
ENGINE_LOOP = "event loop of the engine"
#: Parts of the command lines of HTTP workers, and of processes of devices.
_HTTP_WORKER, _DEVICE = b"service.processes.http_worker", b"service.processes.device_process"
FORK_SERVER, DECODERS = "fork server", "decoding processes"
#: All kinds, in the order of a table.
KINDS = (
    EVENT_LOOP, ENGINE_LOOP, *(kind for _, kind in _MAIN_THREADS), OTHER_THREADS, FORK_SERVER,
    DECODERS,
)  # fmt: skip


@dataclass(frozen=True)
class _Stat:
    """A line of /proc/.../stat: name, parent, and CPU seconds of its own and of children that have
    ended."""

    name: str
    parent: int
    own_s: float
    ended_children_s: float


def read_cpu_s(pid: int) -> dict[str, float]:
    """Return the CPU seconds that the service with process id `pid` has used, by kind.

    Raises OSError where it has ended.
    """
    seconds = dict.fromkeys(KINDS, 0.0)
    workers = [child for child, _ in _children(pid) if _runs(child, _HTTP_WORKER)]
    _add_process(seconds, pid, ENGINE_LOOP if workers else EVENT_LOOP)
    for worker in workers:
        with suppress(OSError):  # it has ended meanwhile
            _add_process(seconds, worker, EVENT_LOOP)
    return seconds


def _add_process(seconds: dict[str, float], pid: int, event_loop: str) -> None:
    """Add the CPU seconds of a process, whose first thread is of a kind, of its decoders, and of
    the processes of its devices."""
    main = _read(_PROC / str(pid))
    named_s = 0.0
    for task in _tasks(pid):
        with suppress(OSError):  # it has ended meanwhile
            kind = event_loop if int(task.name) == pid else _kind(task)
            own_s = _read(task).own_s
            if kind != OTHER_THREADS:
                seconds[kind] += own_s
                named_s += own_s
    seconds[OTHER_THREADS] += max(0.0, main.own_s - named_s)  # each is rounded to clock ticks
    for child, stat in _children(pid):  # the fork server; its children decode
        if _runs(child, _HTTP_WORKER):
            continue
        if _runs(child, _DEVICE):
            with suppress(OSError):  # it has ended meanwhile
                _add_process(seconds, child, OTHER_THREADS)
            continue
        seconds[FORK_SERVER] += stat.own_s
        seconds[DECODERS] += stat.ended_children_s
        for _, decoder in _children(child):
            seconds[DECODERS] += decoder.own_s


def _runs(pid: int, module: bytes) -> bool:
    try:
        return module in (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:  # it has ended
        return False


def wait_until_idle(pid: int) -> None:
    """Wait until the service does next to nothing: it loads and compiles after it is ready.

    Waits for a minute at most.
    """
    end = time.monotonic() + _IDLE_TIMEOUT_S
    used_s = sum(read_cpu_s(pid).values())
    while time.monotonic() < end:
        time.sleep(_IDLE_WINDOW_S)
        before_s, used_s = used_s, sum(read_cpu_s(pid).values())
        if used_s - before_s < _IDLE_SHARE * _IDLE_WINDOW_S:
            return


def per_request_ms(
    before: Mapping[str, float], after: Mapping[str, float], requests: int
) -> dict[str, float]:
    """Return the milliseconds between two readings per request, by kind, and in `all`."""
    by_kind = {
        kind: 1000 * max(0.0, after[kind] - before[kind]) / max(1, requests) for kind in KINDS
    }
    return by_kind | {"all": sum(by_kind.values())}


def _kind(task: Path) -> str:
    """Return the kind of a thread that is not its process's first."""
    name = _read(task).name
    return next((kind for start, kind in _MAIN_THREADS if name.startswith(start)), OTHER_THREADS)


def _tasks(pid: int) -> list[Path]:
    return list((_PROC / str(pid) / "task").iterdir())


def _children(pid: int) -> Iterator[tuple[int, _Stat]]:
    """Yield the processes whose parent is `pid`."""
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                stat = _read(folder)
                if stat.parent == pid:
                    yield int(folder.name), stat


def _read(folder: Path) -> _Stat:
    # The name is in brackets and may contain anything, brackets as well.
    before, _, after = (folder / "stat").read_text().rpartition(")")
    fields = after.split()  # from field 3 on, as proc(5) counts
    ticks = [int(value) for value in fields[11:15]]
    return _Stat(
        before.partition("(")[2], int(fields[1]), sum(ticks[:2]) / _TICKS_PER_S,
        sum(ticks[2:]) / _TICKS_PER_S,
    )  # fmt: skip
