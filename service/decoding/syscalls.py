"""System calls that decoding processes, and the process that forks them, keep; by libseccomp.

A filter compares the registers of a call and sees no memory. So a call that names another process
in a register is allowed for safe values alone, and a call that names a path or an address in
memory is refused, whatever its flags say: newfstatat takes a path with AT_EMPTY_PATH as well.
A call of another architecture that the machine runs (i386, x32) ends the process.

Executable memory is not refused: the callbacks of cffi, which soundfile uses, need a page that is
writable and executable. What a process can do is bounded by its calls, not by its code.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Literal

#: All that decoding needs once its libraries are loaded: memory, the sockets that are open, the
#: clock, threads' locks, and an end.
_DECODING = (
    "brk", "mmap", "munmap", "mremap", "mprotect", "madvise",
    "read", "readv", "write", "writev", "recvfrom",
    "poll", "ppoll", "select", "pselect6", "close", "lseek", "fstat",
    "futex", "sched_yield", "set_robust_list", "rseq",
    "gettimeofday", "time", "nanosleep", "getrandom",
    "getpid", "gettid", "getuid", "geteuid", "getgid", "getegid",
    "getrusage", "sysinfo", "uname", "getcpu",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall",
    "exit", "exit_group",
)  # fmt: skip

#: What the process that forks them needs as well, and a forked one until it is confined.
_FORKING = (
    "recvmsg", "wait4", "fork", "pipe2", "dup2", "dup3",
    "newfstatat", "getsockname", "getpeername", "getsockopt",
    "getppid", "prctl", "seccomp", "capget", "capset", "unshare",
    "setgroups", "setresgid", "setresuid",
)  # fmt: skip

#: What the C library asks of clone() for a thread: all is shared with its process, nothing else.
#: musl has one bit more.
_THREAD_FLAGS = (0x3D0F00, 0x7D0F00)
#: CLONE_CHILD_SETTID and CLONE_CHILD_CLEARTID, which fork() may ask for.
_FORK_FLAGS = 0x1000000 | 0x200000
#: clone3() on every kind of machine; old libseccomps have no name for it.
_CLONE3 = 435
_F_GETFD, _F_GETFL = 1, 3
_RLIMIT_CPU = 0
#: Clocks from here on are of devices or, by its id, of another process.
_CLOCKS = 16
_MAX_PID = (1 << 31) - 1
_ALL_BITS = (1 << 64) - 1


@dataclass(frozen=True)
class Condition:
    """That the argument at `position`, in all bits of its register, is equal to `value`, less
    than it, or at most it. With a `mask`: those bits of it are equal to `value`."""

    position: int
    value: int
    comparison: Literal["EQ", "LT", "LE"] = "EQ"
    mask: int | None = None


@dataclass(frozen=True)
class Rule:
    """Allow the call `name` where all `conditions` hold; of several rules for it, one is enough."""

    name: str
    conditions: tuple[Condition, ...] = ()


_COMMON = (
    *(
        Rule(name, (Condition(0, _CLOCKS, "LT"),))
        for name in ("clock_gettime", "clock_getres", "clock_nanosleep")
    ),
    *(Rule("clone", (Condition(0, flags),)) for flags in _THREAD_FLAGS),
    *(Rule("fcntl", (Condition(1, command),)) for command in (_F_GETFD, _F_GETFL)),
    Rule("sched_getaffinity", (Condition(0, 0),)),
    Rule("sendto", (Condition(4, 0),)),  # to the socket's other end, to no address
)


def decoding_rules(pid: int) -> tuple[Rule, ...]:
    """For the decoding process `pid`: it may signal itself alone, and limit its own CPU time."""
    return (
        *map(Rule, _DECODING),
        *_COMMON,
        Rule("tgkill", (Condition(0, pid),)),
        Rule("prlimit64", (Condition(0, 0), Condition(1, _RLIMIT_CPU))),
        Rule("prlimit64", (Condition(0, 0), Condition(2, 0))),  # to read any of its own
    )


def forking_rules() -> tuple[Rule, ...]:
    """For the process that forks those: it may fork, end processes, read files and give up
    rights. What it forks inherits these rules, so none has a process id."""
    writing = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
    return (
        *map(Rule, _DECODING),
        *map(Rule, _FORKING),
        *_COMMON,
        Rule("tgkill"),
        Rule("prlimit64", (Condition(0, 0),)),
        Rule("openat", (Condition(2, os.O_RDONLY, mask=writing),)),
        Rule("kill", (Condition(0, _MAX_PID, "LE"), Condition(1, signal.SIGKILL))),
        Rule("clone", (Condition(0, signal.SIGCHLD, mask=_ALL_BITS ^ _FORK_FLAGS),)),
    )


@cache
def library() -> ModuleType | None:
    """Import pyseccomp, which looks for libseccomp; None where either is missing.

    For the first call, this process has to be able to open files and start programs.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError):
        return None
    return pyseccomp  # type: ignore[no-any-return]


def allow_only(rules: Iterable[Rule]) -> bool:
    """Refuse this process all other calls with EPERM, in all its threads and for good.

    Returns False, with nothing refused, where libseccomp is not installed or the kernel has no
    filters. Raises OSError where they are there and fail.
    """
    pyseccomp = library()
    if pyseccomp is None:
        return False
    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for rule in rules:
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, rule.name) < 0:
            continue  # not a call of this kind of machine
        conditions = [
            pyseccomp.Arg(c.position, getattr(pyseccomp, c.comparison), c.value)
            if c.mask is None
            else pyseccomp.Arg(c.position, pyseccomp.MASKED_EQ, c.mask, c.value)
            for c in rule.conditions
        ]
        calls.add_rule(pyseccomp.ALLOW, rule.name, *conditions)
    # The C library takes these answers for an old kernel's: it starts threads by clone(), whose
    # flags are in a register, and does without the cores of another thread.
    unknown = pyseccomp.ERRNO(errno.ENOSYS)
    calls.add_rule(unknown, _CLONE3)
    calls.add_rule(unknown, "sched_getaffinity", pyseccomp.Arg(0, pyseccomp.NE, 0))
    attributes = pyseccomp.Attr
    try:
        calls.set_attr(attributes.API_SYSRAWRC, 1)  # errors as the kernel gives them
        calls.set_attr(attributes.ACT_BADARCH, pyseccomp.KILL_PROCESS)
        calls.set_attr(attributes.CTL_TSYNC, 1)
        calls.load()
    except OSError as exc:
        if exc.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        raise
    return True
