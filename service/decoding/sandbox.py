"""What a decoding process gives up before it reads a stranger's file.

On Linux: new privileges, and every system call that decoding in memory does not need, by
libseccomp: it can open no file, no socket and start no program; only threads, which a video is
decoded by. Everywhere: more memory than its share, core dumps, and writing files. Elsewhere, or
where libseccomp is missing, the limits alone hold.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
#: Files that may be open: a few, all of them from before.
_MAX_FILES = 64

#: All that decoding needs once its libraries are loaded: memory, the socket that is open, the
#: clock, threads' locks, and an end.
_ALLOWED = (
    "brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "mincore", "membarrier",
    "read", "readv", "write", "writev", "recvfrom", "recvmsg", "sendto", "sendmsg",
    "poll", "ppoll", "select", "pselect6", "close", "lseek", "fstat", "newfstatat", "fcntl",
    "dup",
    "futex", "sched_yield", "sched_getaffinity", "set_robust_list", "rseq",
    "clock_gettime", "clock_getres", "gettimeofday", "time", "nanosleep", "clock_nanosleep",
    "getrandom", "getpid", "gettid", "getuid", "geteuid", "getgid", "getegid",
    "getrusage", "sysinfo", "uname", "getcpu", "prlimit64", "getrlimit", "setrlimit",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "tgkill", "restart_syscall",
    "exit", "exit_group",
)  # fmt: skip

#: What the C library asks of clone() for a thread: all is shared with its process, nothing else.
#: musl has one bit more.
_THREAD_FLAGS = (0x3D0F00, 0x7D0F00)
#: clone3() on every kind of machine; old libseccomps have no name for it.
_CLONE3 = 435


def confine(memory_bytes: int) -> str:
    """Give it all up, for good; `memory_bytes` is what a file may take beyond what there is.

    Returns which walls stand, for the log.
    """
    limit = _address_space() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_FILES, _MAX_FILES))
    if sys.platform != "linux":
        return "limits"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")
    return "limits, no_new_privs, seccomp" if _filter_calls() else "limits, no_new_privs"


def limit_cpu(seconds: float) -> None:
    """Let this process work `seconds` more; its parent, which is to end it earlier, may be gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _address_space() -> int:
    """Bytes of address space in use; 0 where that is not told."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _filter_calls() -> bool:
    """Refuse every other system call with EPERM; False where libseccomp is not there."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError):
        return False
    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in _ALLOWED:
        try:
            calls.add_rule(pyseccomp.ALLOW, name)
        except (OSError, ValueError):
            continue  # not a call of this kind of machine
    for flags in _THREAD_FLAGS:
        calls.add_rule(pyseccomp.ALLOW, "clone", pyseccomp.Arg(0, pyseccomp.EQ, flags))
    # Its flags are in memory, where no filter sees them: the C library then takes clone().
    calls.add_rule(pyseccomp.ERRNO(errno.ENOSYS), _CLONE3)
    calls.load()
    return True
