"""`python -m tests.service.captured IDENTITY KIND...`: try the system calls of an attacker who
controls a decoding process.

IDENTITY: `as-is`, a user id (from root), or `no-capabilities`. Each call of `attempts.CALLS` is
made in a process of each KIND, with a victim process of the same user. Prints as JSON the outcome
by call and kind: `worked`, the name of the error, the signal that ended the caller, `absent` if the
machine has no such call, or `failed` if the attempt itself is wrong.

With `threads` instead of kinds: prints how many threads a confined process can start, up to MANY.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from service.decoding import sandbox, syscalls
from tests.service.attempts import CALLS, Absent, Scene

MEMORY = 64 << 20
#: Most threads that are tried.
MANY = 300
#: Seconds after which a process that does not end is ended.
_LIMIT_S = 20
_PR_SET_DUMPABLE = 4


def _confine_without_seccomp() -> None:
    syscalls.library = lambda: None  # type: ignore[assignment]
    sandbox.confine(MEMORY)


#: The kinds of processes, and their confinement before the attempts: none, that of a decoding
#: process, and that of the fork server.
KINDS: dict[str, Callable[[], object]] = {
    "free": lambda: None,
    "confined": lambda: sandbox.confine(MEMORY),
    "without-seccomp": _confine_without_seccomp,
    "forking": sandbox.confine_forking,
}


def become(identity: str) -> None:
    """Change the user or the capabilities of this process."""
    if identity == "no-capabilities":
        sandbox._set_capabilities(0)
    elif identity != "as-is":
        os.setgroups([])
        os.setresgid(*[int(identity)] * 3)
        os.setresuid(*[int(identity)] * 3)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # as a service's process is


def outcome(name: str, kind: str) -> str:
    """Return the outcome of a call, made in a new process with a new victim."""
    victim = os.fork()
    if not victim:
        signal.alarm(_LIMIT_S)
        while True:
            signal.pause()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(victim, Path(folder))
        Path(os.fsdecode(scene.file)).write_bytes(b"x")
        caller = os.fork()
        if not caller:
            os._exit(_attempt(name, kind, scene))
        _, status = os.waitpid(caller, 0)
    alive = os.waitpid(victim, os.WNOHANG)[0] == 0
    if not alive:
        return "worked"
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    code = os.WEXITSTATUS(status)
    return {0: "worked", 255: "absent", 254: "failed"}.get(code) or errno.errorcode[code]


def _attempt(name: str, kind: str, scene: Scene) -> int:
    """Return the exit code: 0 if it worked, 255 if there is no such call, or the error number."""
    signal.alarm(_LIMIT_S)
    try:
        scene.pidfd = os.pidfd_open(scene.victim)
        KINDS[kind]()
        CALLS[name](scene)
    except Absent:
        return 255
    except OSError as exc:
        return exc.errno or 254
    except BaseException:
        return 254
    return 0


def threads() -> int:
    """Return how many threads a confined process can start."""
    sandbox.confine(MEMORY)
    threading.stack_size(64 << 10)
    end = threading.Event()
    for count in range(MANY):
        try:
            threading.Thread(target=end.wait, daemon=True).start()
        except RuntimeError:
            return count
    return MANY


def main(identity: str, *kinds: str) -> None:
    """Make the attempts and print their outcomes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    become(identity)
    if kinds == ("threads",):
        print(threads(), flush=True)
    else:
        print(json.dumps({name: {kind: outcome(name, kind) for kind in kinds} for name in CALLS}))
        sys.stdout.flush()
    os._exit(0)  # as a confined process, with threads that do not end


if __name__ == "__main__":
    main(*sys.argv[1:])
