"""Seccomp filters of decoding processes and of the fork server, by libseccomp.

A filter compares the registers of a system call and cannot read memory. So a call that names
another process in a register is allowed for safe values only, and a call that names a path or an
address in memory is refused whatever its flags are: newfstatat takes a path with AT_EMPTY_PATH as
well. A call of another architecture that the machine runs (i386, x32) ends the process.

Executable memory is not refused: the callbacks of cffi, which soundfile uses, need a page that is
writable and executable. A process is limited by its system calls, not by its code.
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

#: System calls of decoding once its libraries are loaded: memory, open sockets, the clock, locks of
#: threads, and exit.
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

#: Further system calls of the fork server, and of a forked process until it is confined.
_FORKING = (
    "recvmsg", "wait4", "fork", "pipe2", "dup2", "dup3",
    "newfstatat", "getsockname", "getpeername", "getsockopt",
    "getppid", "prctl", "seccomp", "capget", "capset", "unshare",
    "setgroups", "setresgid", "setresuid",
)  # fmt: skip

#: Flags that the C library passes to clone() for a thread: it shares everything with its process.
#: musl sets one bit more.
_THREAD_FLAGS = (0x3D0F00, 0x7D0F00)
#: CLONE_CHILD_SETTID and CLONE_CHILD_CLEARTID, which fork() may set.
_FORK_FLAGS = 0x1000000 | 0x200000
#: Number of clone3() on every architecture; an old libseccomp has no name for it.
_CLONE3 = 435
_F_GETFD, _F_GETFL = 1, 3
_RLIMIT_CPU = 0
#: Clocks with ids from here on belong to devices or to another process.
_FIRST_FOREIGN_CLOCK = 16
_MAX_PID = (1 << 31) - 1
_ALL_BITS = (1 << 64) - 1


@dataclass(frozen=True)
class Condition:
    """Compares the argument at `position`, all bits of its register, with `value`.

    `comparison`: equal (EQ), less (LT), less or equal (LE). With a `mask`, the bits in it are
    compared, and must be equal.
    """

    position: int
    value: int
    comparison: Literal["EQ", "LT", "LE"] = "EQ"
    mask: int | None = None


@dataclass(frozen=True)
class Rule:
    """Allows the call `name` where all `conditions` hold; of several rules, one is enough."""

    name: str
    conditions: tuple[Condition, ...] = ()


_COMMON = (
    *(
        Rule(name, (Condition(0, _FIRST_FOREIGN_CLOCK, "LT"),))
        for name in ("clock_gettime", "clock_getres", "clock_nanosleep")
    ),
    *(Rule("clone", (Condition(0, flags),)) for flags in _THREAD_FLAGS),
    *(Rule("fcntl", (Condition(1, command),)) for command in (_F_GETFD, _F_GETFL)),
    Rule("sched_getaffinity", (Condition(0, 0),)),
    Rule("sendto", (Condition(4, 0),)),  # to the other end of the socket, not to an address
)


def decoding_rules(pid: int) -> tuple[Rule, ...]:
    """Return the rules of decoding process `pid`: it may signal itself and limit its CPU time."""
    return (
        *map(Rule, _DECODING),
        *_COMMON,
        Rule("tgkill", (Condition(0, pid),)),
        Rule("prlimit64", (Condition(0, 0), Condition(1, _RLIMIT_CPU))),
        Rule("prlimit64", (Condition(0, 0), Condition(2, 0))),  # reads a limit of its own
    )


def forking_rules() -> tuple[Rule, ...]:
    """Return the rules of the fork server: it may fork, kill processes, read files and drop rights.

    Its children inherit these rules, so none names a process id.
    """
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
    """Import pyseccomp, which loads libseccomp; return None where either is missing.

    The first call has to be made while this process can open files and start programs.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError):
        return None
    return pyseccomp  # type: ignore[no-any-return]


def allow_only(rules: Iterable[Rule]) -> bool:
    """Install a filter, irrevocably: all other calls fail with EPERM, in all threads.

    Returns False, and installs nothing, where libseccomp is missing or the kernel has no filters.
    Raises OSError where the kernel has them and refuses this one.
    """
    pyseccomp = library()
    if pyseccomp is None:
        return False
    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for rule in rules:
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, rule.name) < 0:
            continue  # not a call of this architecture
        conditions = [
            pyseccomp.Arg(c.position, getattr(pyseccomp, c.comparison), c.value)
            if c.mask is None
            else pyseccomp.Arg(c.position, pyseccomp.MASKED_EQ, c.mask, c.value)
            for c in rule.conditions
        ]
        calls.add_rule(pyseccomp.ALLOW, rule.name, *conditions)
    # ENOSYS makes the C library assume an old kernel: it starts threads by clone(), whose flags are
    # in a register, and does not read the CPU affinity of other threads.
    unknown = pyseccomp.ERRNO(errno.ENOSYS)
    calls.add_rule(unknown, _CLONE3)
    calls.add_rule(unknown, "sched_getaffinity", pyseccomp.Arg(0, pyseccomp.NE, 0))
    attributes = pyseccomp.Attr
    try:
        calls.set_attr(attributes.API_SYSRAWRC, 1)  # error codes of the kernel
        calls.set_attr(attributes.ACT_BADARCH, pyseccomp.KILL_PROCESS)
        calls.set_attr(attributes.CTL_TSYNC, 1)
        calls.load()
    except OSError as exc:
        if exc.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        raise
    return True
