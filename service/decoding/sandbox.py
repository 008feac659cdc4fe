"""What a decoding process gives up before it reads a stranger's file.

Everywhere: more memory than its share, core dumps, and writing files. On Linux also, each where
the machine has it:

- new privileges, and all capabilities;
- its user: a process of root takes a user id that no other process has, so it may not signal or
  trace any. This needs CAP_SETUID, CAP_SETGID and CAP_KILL, which the process that forks it keeps;
- threads beyond a number. RLIMIT_NPROC counts all processes of a user, so it holds for a user id
  of its own, or for a user namespace of its own, which a process of another user makes. Neither
  may be possible in a container: there its limit of processes (`pids`) bounds all together;
- by libseccomp, every system call that decoding in memory does not need: it can open no file and
  no socket, start no program, and name no other process (see `syscalls`).

Landlock is not used. Its Python packages are young or unreleased (landlock 1.0.0.dev5, landlockpy
0.2, py-landlock 0.1), and what it takes away needs system calls that seccomp refuses.
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

from service.decoding import syscalls

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CLONE_NEWUSER = 0x10000000
#: The form of capget() and capset() with 64 capabilities.
_CAPABILITY_VERSION = 0x20080522
_CAP_KILL, _CAP_SETGID, _CAP_SETUID = 1 << 5, 1 << 6, 1 << 7
#: What root needs to give a process a user id of its own, and to end that process later.
_CHANGE_USER = _CAP_KILL | _CAP_SETGID | _CAP_SETUID
#: User ids from here on, by process id, are in no range that systemd or containers give out.
_OWN_USERS = 0x70000000
#: Files that may be open: a few, all of them from before.
_MAX_FILES = 64
#: Threads of one process; decoding starts a few, see model.media.video.frames.
_MAX_THREADS = 64
#: Memory of a process that is confined to see which layers are in force, in bytes.
_TRIAL_MEMORY = 64 << 20


class Layers(IntFlag):
    """What holds a confined process."""

    LIMITS = 1
    NO_NEW_PRIVS = 2
    SECCOMP = 4
    OWN_USER = 8
    THREAD_LIMIT = 16

    @property
    def names(self) -> list[str]:
        """Their names in small letters."""
        return [str(layer.name).lower() for layer in self]


class SeccompUnavailable(Exception):
    """System calls cannot be refused here; the message says what is needed for it."""


class Orphaned(Exception):
    """The process that was to end this one has gone before."""


def confine(
    memory_bytes: int, seccomp_required: bool = False, *, parent: int | None = None
) -> Layers:
    """Give it all up, for good; `memory_bytes` is what a file may take beyond what there is.

    On Linux the process ends with its parent; `parent` is that one's id, where it may have gone
    already. Returns which layers are in force. Raises SeccompUnavailable where seccomp is required
    and not there, Orphaned, and OSError where giving up a right fails.
    """
    syscalls.library()  # which can be loaded no longer below
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
        # Last: it refuses the calls above.
        if syscalls.allow_only(syscalls.decoding_rules(os.getpid())):
            layers |= Layers.SECCOMP
    if seccomp_required:
        _require_seccomp(layers)
    return layers


def confine_forking() -> None:
    """Confine the process that forks decoding processes, once its libraries are loaded.

    It reads orders of the service alone. It keeps what it needs to fork, to end processes (which
    ids they will have no filter knows) and to read files; of root's capabilities those that
    `confine` needs. Raises OSError.
    """
    _limit_files()
    if sys.platform == "linux":
        syscalls.library()
        _set_capabilities(_capabilities() & _CHANGE_USER)
        _forgo_privileges()
        syscalls.allow_only(syscalls.forking_rules())


def try_out(seccomp_required: bool = False) -> Layers:
    """Confine a process that is forked for it; which layers are in force there.

    Raises SeccompUnavailable as `confine` does, and OSError where the process failed; its
    traceback is on stderr.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, bytes([confine(_TRIAL_MEMORY)]))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    if not answer:
        raise OSError("a process that was forked for it could not be confined")
    layers = Layers(answer[0])
    if seccomp_required:
        _require_seccomp(layers)
    return layers


def check() -> None:
    """Confine a process that is started for it.

    Raises SeccompUnavailable where seccomp does not hold it.
    """
    command = [sys.executable, "-m", "service.decoding.sandbox"]
    trial = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if trial.returncode:
        raise SeccompUnavailable(trial.stderr.strip() or f"it ended with {trial.returncode}")


def limit_cpu(seconds: float) -> None:
    """Let this process work `seconds` more; its parent, which is to end it earlier, may be gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    wanted = int(used.ru_utime + used.ru_stime + seconds) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
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
    """Bytes of address space in use; 0 where /proc does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _limit(kind: int, most: int) -> None:
    """Lower a limit to `most`, for good; one that is lower stays."""
    hard = resource.getrlimit(kind)[1]
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (value, value))


def _limit_files() -> None:
    """No core dumps, and few open files."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _MAX_FILES)


def _leave_user() -> Layers:
    """Take a user id, or else a user namespace, of its own, and limit the threads in it."""
    layers = Layers(0)
    if os.geteuid():
        if _libc().unshare(_CLONE_NEWUSER):
            return layers
    else:
        if _capabilities() & _CHANGE_USER != _CHANGE_USER:
            return layers
        own = _OWN_USERS + os.getpid()
        try:
            os.setgroups([])
            os.setresgid(own, own, own)
            os.setresuid(own, own, own)
        except OSError:
            return layers  # a container's user namespace has no such ids
        layers |= Layers.OWN_USER
    _limit(resource.RLIMIT_NPROC, _MAX_THREADS)
    return layers | Layers.THREAD_LIMIT


def _forgo_privileges() -> None:
    """Gain no rights by starting programs, and be traced by no other user. Raises OSError."""
    libc = _libc()
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def _capabilities() -> int:
    """The first 32 effective capabilities, a bit each. Raises OSError."""
    sets = (_CapabilitySets * 2)()
    if _libc().capget(ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION, 0)), sets):
        raise OSError(ctypes.get_errno(), "capget was refused")
    return int(sets[0].effective)


def _set_capabilities(kept: int) -> None:
    """Give up all capabilities but those of the first 32 in `kept`. Raises OSError."""
    sets = (_CapabilitySets * 2)(_CapabilitySets(kept, kept, 0))
    if _libc().capset(ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION, 0)), sets):
        raise OSError(ctypes.get_errno(), "capset was refused")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _main() -> None:
    """Confine this process where seccomp is required, and print the layers."""
    try:
        layers = confine(_TRIAL_MEMORY, seccomp_required=True)
    except SeccompUnavailable as exc:
        sys.exit(str(exc))
    print(", ".join(layers.names))


if __name__ == "__main__":
    _main()
