"""`python -m tests.service.captured IDENTITY KIND...`: what somebody tries who has taken over a
decoding process.

IDENTITY is who runs it: `as-is`, a user id (from root), or `no-capabilities`. Each call of
`attempts.CALLS` is made in a process of each KIND, with a victim of the same user. Prints as JSON
by call and kind what became of it: `worked`, the error's name, the signal that ended the caller,
`absent` where the machine has no such call, or `failed` where the attempt itself is wrong.

With `threads` in place of kinds: how many threads a confined process can start, of MANY.
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


#: The kinds of processes, and what each gives up before it tries anything: nothing, what a decoding
#: process does, and what the process that forks those does.
KINDS: dict[str, Callable[[], object]] = {
    "free": lambda: None,
    "confined": lambda: sandbox.confine(MEMORY),
    "without-seccomp": _confine_without_seccomp,
    "forking": sandbox.confine_forking,
}


def become(identity: str) -> None:
    """Run as somebody else from here on."""
    if identity == "no-capabilities":
        sandbox._set_capabilities(0)
    elif identity != "as-is":
        os.setgroups([])
        os.setresgid(*[int(identity)] * 3)
        os.setresuid(*[int(identity)] * 3)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # as a service's process is


def outcome(name: str, kind: str) -> str:
    """What becomes of a call, made in a process of its own with a victim of its own."""
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
    """The exit code: 0 where it worked, 255 where there is no such call, or its error's number."""
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
    """How many threads a confined process can start."""
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
    """Print what somebody can do."""
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
