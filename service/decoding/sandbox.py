"""The sandbox of a decoding process, which it enters before it reads an uploaded file.

On every system: a memory limit, no core dumps, no writing of files. On Linux, each where the
machine supports it:

- no new privileges, and no capabilities;
- a user id that no other process has, for a process of root, so it may not signal or trace any
  other. This needs CAP_SETUID, CAP_SETGID and CAP_KILL, which the fork server keeps;
- a limit of threads. RLIMIT_NPROC counts all processes of a user, so it needs a user id of its own,
  or a user namespace of its own, which a process that is not root creates. A container may allow
  neither: there its limit of processes (`pids`) bounds all together;
- a seccomp filter that refuses every system call that decoding in memory does not need: the process
  can open no file and no socket, start no program, and address no other process (see `syscalls`).

Landlock is not used. Its Python packages are young or unreleased (landlock 1.0.0.dev5, landlockpy
0.2, py-landlock 0.1), and what it restricts needs system calls that seccomp refuses.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import traceback
from enum import IntFlag
from pathlib import Path

from model.module_command import module_command
from service.decoding import syscalls

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CLONE_NEWUSER = 0x10000000
#: The version of capget() and capset() with 64 capabilities.
_CAPABILITY_VERSION = 0x20080522
_CAP_KILL, _CAP_SETGID, _CAP_SETUID = 1 << 5, 1 << 6, 1 << 7
#: Capabilities of root to run a process under another user id, and to end that process later.
_CHANGE_USER = _CAP_KILL | _CAP_SETGID | _CAP_SETUID
#: Added to a process id, this gives a user id outside the ranges of systemd and containers.
_FIRST_OWN_UID = 0x70000000
#: Limit of open files; a process has a few, all opened before.
_MAX_FILES = 64
#: Limit of threads of one process; decoding starts a few, see model.media.video.frames.
_MAX_THREADS = 64
#: Memory in bytes for a process that only tries which layers can be put in force.
_PROBE_MEMORY = 64 << 20


class Layers(IntFlag):
    """Sandbox layers in force for a process."""

    LIMITS = 1
    NO_NEW_PRIVS = 2
    SECCOMP = 4
    OWN_USER = 8
    THREAD_LIMIT = 16

    @property
    def names(self) -> list[str]:
        """Names in lower case, as `/readyz` and the log have them."""
        return [str(layer.name).lower() for layer in self]


class SeccompUnavailable(Exception):
    """No seccomp filter can be installed here; the message says what is needed."""


class Orphaned(Exception):
    """The parent ended before this process could arrange to be killed with it."""


def confine(
    memory_bytes: int, seccomp_required: bool = False, *, parent: int | None = None
) -> Layers:
    """Enter the sandbox, irrevocably, and return the layers in force.

    `memory_bytes` may be allocated beyond the address space in use. On Linux the process ends with
    its parent; pass the process id of `parent` where that may have ended already.

    Raises SeccompUnavailable where seccomp is required and missing, Orphaned, and OSError where a
    right cannot be dropped.
    """
    syscalls.library()  # it cannot be loaded any more below
    limit = _address_space() + memory_bytes
    _limit(resource.RLIMIT_AS, limit)
    _limit(resource.RLIMIT_FSIZE, 0)
    layers = Layers.LIMITS
    _limit_files()
    if sys.platform == "linux":
        layers |= _leave_user()
        _set_capabilities(0)
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if parent is not None and os.getppid() != parent:
            raise Orphaned
        _forgo_privileges()
        layers |= Layers.NO_NEW_PRIVS
        # Last, as it refuses the calls above.
        if syscalls.allow_only(syscalls.decoding_rules(os.getpid())):
            layers |= Layers.SECCOMP
    if seccomp_required:
        _require_seccomp(layers)
    return layers


def confine_forking() -> None:
    """Confine the fork server, once its libraries are loaded.

    It keeps what it needs to fork, to kill processes (a filter cannot know their ids) and to read
    files, and of root's capabilities those that `confine` needs. Raises OSError.
    """
    _limit_files()
    if sys.platform == "linux":
        syscalls.library()
        _set_capabilities(_capabilities() & _CHANGE_USER)
        _forgo_privileges()
        syscalls.allow_only(syscalls.forking_rules())


def probe(seccomp_required: bool = False) -> Layers:
    """Confine a forked process and return the layers in force there.

    Raises SeccompUnavailable as `confine` does, and OSError where the forked process failed; it
    prints its traceback to stderr.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, bytes([confine(_PROBE_MEMORY)]))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    if not answer:
        raise OSError("a forked process could not be confined")
    layers = Layers(answer[0])
    if seccomp_required:
        _require_seccomp(layers)
    return layers


def check() -> None:
    """Confine a new process. Raises SeccompUnavailable where seccomp is not in force there."""
    command = module_command("service.decoding.sandbox")
    child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if child.returncode:
        raise SeccompUnavailable(child.stderr.strip() or f"it ended with {child.returncode}")


def limit_cpu(seconds: float) -> None:
    """Limit this process to `seconds` more of CPU time.

    The service ends a slow process earlier; this holds where the service has gone.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + seconds) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _require_seccomp(layers: Layers) -> None:
    """Raises SeccompUnavailable."""
    if Layers.SECCOMP not in layers:
        raise SeccompUnavailable(
            "SCMRL_SANDBOX=required needs Linux with seccomp filters and libseccomp; decoding "
            f"would be confined by {', '.join(layers.names)} alone. Install libseccomp (Debian: "
            "libseccomp2), or set SCMRL_SANDBOX=auto"
        )


def _address_space() -> int:
    """Return the bytes of address space in use; 0 where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _limit(kind: int, maximum: int) -> None:
    """Lower the soft and the hard limit to `maximum`, irrevocably; a lower limit stays."""
    hard = resource.getrlimit(kind)[1]
    value = maximum if hard == resource.RLIM_INFINITY else min(maximum, hard)
    resource.setrlimit(kind, (value, value))


def _limit_files() -> None:
    """Allow no core dumps and few open files."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _MAX_FILES)


def _leave_user() -> Layers:
    """Switch to a user id, or else a user namespace, of its own, and limit its threads."""
    layers = Layers(0)
    if os.geteuid():
        if _libc().unshare(_CLONE_NEWUSER):
            return layers
    else:
        if _capabilities() & _CHANGE_USER != _CHANGE_USER:
            return layers
        uid = _FIRST_OWN_UID + os.getpid()
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError:
            return layers  # the user namespace of a container has no such ids
        layers |= Layers.OWN_USER
    _limit(resource.RLIMIT_NPROC, _MAX_THREADS)
    return layers | Layers.THREAD_LIMIT


def _forgo_privileges() -> None:
    """Set no_new_privs, and forbid tracing by other users. Raises OSError."""
    libc = _libc()
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def _capabilities() -> int:
    """Return the first 32 effective capabilities, one bit each. Raises OSError."""
    sets = (_CapabilitySets * 2)()
    if _libc().capget(ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION, 0)), sets):
        raise OSError(ctypes.get_errno(), "capget was refused")
    return int(sets[0].effective)


def _set_capabilities(mask: int) -> None:
    """Drop all capabilities except those in `mask`, of the first 32. Raises OSError."""
    sets = (_CapabilitySets * 2)(_CapabilitySets(mask, mask, 0))
    if _libc().capset(ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION, 0)), sets):
        raise OSError(ctypes.get_errno(), "capset was refused")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _main() -> None:
    """Confine this process where seccomp is required, and print the layers in force."""
    try:
        layers = confine(_PROBE_MEMORY, seccomp_required=True)
    except SeccompUnavailable as exc:
        sys.exit(str(exc))
    print(", ".join(layers.names))


if __name__ == "__main__":
    _main()
