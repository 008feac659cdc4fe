"""System calls by which a process reaches other processes, files, sockets and rights.

No call names another process than the scene's victim, which has to be started for it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyseccomp

_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_FIOSETOWN = 0x8901
_CLONE_NEWUSER, _CLONE_NEWUTS, _CLONE_NEWNS = 0x10000000, 0x04000000, 0x00020000
_RLIMIT_CPU, _RLIMIT_AS = 0, 9
_PTRACE_SEIZE = 0x4206
#: Numbers that are the same on every kind of machine; old libseccomps have no names for them.
_NEW_CALLS = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "clone3": 435,
    "close_range": 436, "openat2": 437, "pidfd_getfd": 438, "faccessat2": 439,
    "process_madvise": 440, "landlock_create_ruleset": 444, "memfd_secret": 447,
    "process_mrelease": 448,
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Absent(Exception):
    """This kind of machine has no such call."""


@dataclass
class Scene:
    """What a caller has from before it was confined: the victim's process id and a pidfd of it,
    sockets, a folder with a file, and room in memory. `new` is a path that is free."""

    victim: int
    folder: Path
    pidfd: int = -1
    pair: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)
    datagrams: socket.socket = field(
        default_factory=lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    )
    room: Any = field(default_factory=lambda: ctypes.create_string_buffer(4096))

    @property
    def file(self) -> bytes:
        return bytes(self.folder / "file")

    @property
    def new(self) -> bytes:
        return bytes(self.folder / "new")


def _number(name: str) -> int:
    """A call's number; negative where the machine has no such call."""
    resolved = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    return _NEW_CALLS[name] if resolved < 0 and name in _NEW_CALLS else int(resolved)


def call(name: str, *arguments: Any) -> int:
    """Make a system call by its number. Raises Absent, and OSError."""
    number = _number(name)
    if number < 0:
        raise Absent(name)
    whole = [ctypes.c_long(x) if isinstance(x, int) else x for x in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *whole))
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def _forks(name: str, *arguments: Any) -> int:
    """A call that returns in a new process as well, which ends at once."""
    if (result := call(name, *arguments)) == 0:
        os._exit(0)
    return result


def _info(number: int) -> bytes:
    """A siginfo_t as sigqueue() makes it."""
    return struct.pack("iii", number, 0, -1).ljust(128, b"\0")


def _vector(room: Any) -> bytes:
    """An iovec of 8 bytes."""
    return struct.pack("LL", ctypes.addressof(room), 8)


def _process_clock(pid: int) -> int:
    """The clock of the CPU time that another process has used."""
    return (~pid << 3) | 2


def _program(code: bytes) -> Callable[[], int]:
    """Machine code as a function; it has to be made before executable memory may be refused."""
    room = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    room.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    function = ctypes.CFUNCTYPE(ctypes.c_int)(address)
    function.room = room  # type: ignore[attr-defined]
    return function


#: mov eax, 20 (i386's getpid); int 0x80; ret
_I386 = b"\xb8\x14\0\0\0\xcd\x80\xc3"


def _i386(scene: Scene) -> int:
    if platform.machine() != "x86_64":
        raise Absent("i386")
    if (result := _program(_I386)()) < 0:
        raise OSError(-result, "i386")
    return result


def _x32(scene: Scene) -> int:
    if platform.machine() != "x86_64":
        raise Absent("x32")
    result = int(_libc.syscall(ctypes.c_long(0x40000000 | _number("getpid"))))
    if result == -1:
        raise OSError(ctypes.get_errno(), "x32")
    return result


def _raise_memory(scene: Scene) -> int:
    unlimited = struct.pack("QQ", 2**64 - 1, 2**64 - 1)
    return call("prlimit64", 0, _RLIMIT_AS, unlimited, 0)


def _share_memory(scene: Scene) -> int:
    segment = call("shmget", 0, 4096, 0o1600)
    return call("shmctl", segment, 0, 0)  # removed


def _send_descriptor(scene: Scene) -> int:
    return socket.send_fds(scene.pair[0], [b"x"], [0])


def _executes(scene: Scene) -> int:
    os.execv("/bin/true", ["true"])


def _socket(family: int, kind: int = socket.SOCK_STREAM) -> Callable[[Scene], int]:
    return lambda scene: call("socket", family, kind, 0)


def _port(scene: Scene) -> bytes:
    """A loopback address, as sendto() takes it."""
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 9, b"\x7f\0\0\1")


_CLONE_ARGS = struct.pack("8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)

#: Each call by the name of what it does.
CALLS: dict[str, Callable[[Scene], int]] = {
    # Signals to another process.
    "kill": lambda s: call("kill", s.victim, signal.SIGKILL),
    "tkill": lambda s: call("tkill", s.victim, signal.SIGKILL),
    "tgkill": lambda s: call("tgkill", s.victim, s.victim, signal.SIGKILL),
    "tgkill, nothing sent": lambda s: call("tgkill", s.victim, s.victim, 0),
    "rt_sigqueueinfo": lambda s: call("rt_sigqueueinfo", s.victim, 9, _info(9)),
    "rt_tgsigqueueinfo": lambda s: call("rt_tgsigqueueinfo", s.victim, s.victim, 9, _info(9)),
    "pidfd_open": lambda s: call("pidfd_open", s.victim, 0),
    "pidfd_send_signal": lambda s: call("pidfd_send_signal", s.pidfd, 9, 0, 0),
    "fcntl F_SETOWN": lambda s: call("fcntl", s.pair[0].fileno(), _F_SETOWN, s.victim),
    "fcntl F_SETOWN_EX": lambda s: call(
        "fcntl", s.pair[0].fileno(), _F_SETOWN_EX, struct.pack("ii", 1, s.victim)
    ),
    "fcntl F_SETSIG": lambda s: call("fcntl", s.pair[0].fileno(), _F_SETSIG, 9),
    "fcntl O_ASYNC": lambda s: call("fcntl", s.pair[0].fileno(), 4, os.O_RDWR | 0o20000),
    "ioctl FIOSETOWN": lambda s: call(
        "ioctl", s.pair[0].fileno(), _FIOSETOWN, struct.pack("i", s.victim)
    ),
    # Another process's memory, limits and turns.
    "prlimit64, to end it": lambda s: call(
        "prlimit64", s.victim, _RLIMIT_CPU, struct.pack("QQ", 0, 0), 0
    ),
    "prlimit64, to read it": lambda s: call("prlimit64", s.victim, _RLIMIT_CPU, 0, s.room),
    "ptrace": lambda s: call("ptrace", _PTRACE_SEIZE, s.victim, 0, 0),
    "process_vm_readv": lambda s: call(
        "process_vm_readv", s.victim, _vector(s.room), 1, _vector(s.room), 1, 0
    ),
    "process_vm_writev": lambda s: call(
        "process_vm_writev", s.victim, _vector(s.room), 1, _vector(s.room), 1, 0
    ),
    "process_madvise": lambda s: call("process_madvise", s.pidfd, _vector(s.room), 1, 20, 0),
    "process_mrelease": lambda s: call("process_mrelease", s.pidfd, 0),
    "pidfd_getfd": lambda s: call("pidfd_getfd", s.pidfd, 0, 0),
    "setns": lambda s: call("setns", s.pidfd, _CLONE_NEWUTS),
    "kcmp": lambda s: call("kcmp", os.getpid(), s.victim, 1, 0, 0),
    "get_robust_list": lambda s: call("get_robust_list", s.victim, s.room, s.room),
    "move_pages": lambda s: call("move_pages", s.victim, 0, 0, 0, 0, 0),
    "setpriority": lambda s: call("setpriority", 0, s.victim, 19),
    "getpriority": lambda s: call("getpriority", 0, s.victim),
    "ioprio_set": lambda s: call("ioprio_set", 1, s.victim, (2 << 13) | 7),
    "sched_setaffinity": lambda s: call(
        "sched_setaffinity", s.victim, 8, struct.pack("Q", 2**64 - 1)
    ),
    "sched_getaffinity": lambda s: call("sched_getaffinity", s.victim, 4096, s.room),
    "sched_setscheduler": lambda s: call("sched_setscheduler", s.victim, 3, struct.pack("i", 0)),
    "sched_getscheduler": lambda s: call("sched_getscheduler", s.victim),
    "clock_gettime": lambda s: call("clock_gettime", _process_clock(s.victim), s.room),
    "getpgid": lambda s: call("getpgid", s.victim),
    "getsid": lambda s: call("getsid", s.victim),
    "perf_event_open": lambda s: call(
        "perf_event_open", struct.pack("IIQ", 1, 112, 1).ljust(112, b"\0"), s.victim, -1, -1, 0
    ),
    # Files.
    "open": lambda s: call("open", s.file, os.O_RDONLY),
    "openat": lambda s: call("openat", _AT_FDCWD, s.file, os.O_RDONLY),
    "openat, to write": lambda s: call("openat", _AT_FDCWD, s.new, os.O_WRONLY | os.O_CREAT, 0o600),
    "openat2": lambda s: call("openat2", _AT_FDCWD, s.file, struct.pack("QQQ", 0, 0, 0), 24),
    "stat": lambda s: call("stat", s.file, s.room),
    "lstat": lambda s: call("lstat", s.file, s.room),
    "newfstatat": lambda s: call("newfstatat", _AT_FDCWD, s.file, s.room, 0),
    "newfstatat AT_EMPTY_PATH": lambda s: call(
        "newfstatat", _AT_FDCWD, s.file, s.room, _AT_EMPTY_PATH
    ),
    "statx": lambda s: call("statx", _AT_FDCWD, s.file, 0, 0x7FF, s.room),
    "statfs": lambda s: call("statfs", s.file, s.room),
    "access": lambda s: call("access", s.file, 0),
    "faccessat": lambda s: call("faccessat", _AT_FDCWD, s.file, 0),
    "faccessat2": lambda s: call("faccessat2", _AT_FDCWD, s.file, 0, 0),
    "readlinkat": lambda s: call("readlinkat", _AT_FDCWD, b"/proc/self/exe", s.room, 4096),
    "getcwd": lambda s: call("getcwd", s.room, 4096),
    "chdir": lambda s: call("chdir", bytes(s.folder)),
    "mkdirat": lambda s: call("mkdirat", _AT_FDCWD, s.new, 0o700),
    "unlinkat": lambda s: call("unlinkat", _AT_FDCWD, s.file, 0),
    "renameat2": lambda s: call("renameat2", _AT_FDCWD, s.file, _AT_FDCWD, s.new, 0),
    "symlinkat": lambda s: call("symlinkat", s.file, _AT_FDCWD, s.new),
    "linkat": lambda s: call("linkat", _AT_FDCWD, s.file, _AT_FDCWD, s.new, 0),
    "fchmodat": lambda s: call("fchmodat", _AT_FDCWD, s.file, 0o600),
    "truncate": lambda s: call("truncate", s.file, 0),
    "inotify_init1": lambda s: call("inotify_init1", 0),
    # Sockets, and what passes between processes.
    "socket, IPv4": _socket(socket.AF_INET),
    "socket, IPv6": _socket(socket.AF_INET6),
    "socket, Unix": _socket(socket.AF_UNIX),
    "socket, netlink": _socket(16, socket.SOCK_RAW),
    "socket, AF_ALG": _socket(38, socket.SOCK_SEQPACKET),
    "socket, vsock": _socket(40),
    "socketpair": lambda s: call("socketpair", socket.AF_UNIX, socket.SOCK_STREAM, 0, s.room),
    "sendto an address": lambda s: call("sendto", s.datagrams.fileno(), b"x", 1, 0, _port(s), 16),
    "connect": lambda s: call("connect", s.datagrams.fileno(), _port(s), 16),
    "sendmsg with a descriptor": _send_descriptor,
    "memfd_create": lambda s: call("memfd_create", b"x", 0),
    "memfd_secret": lambda s: call("memfd_secret", 0),
    "shmget": _share_memory,
    "pipe2": lambda s: call("pipe2", s.room, 0),
    "add_key": lambda s: call("add_key", b"user", b"x", b"y", 1, -2),
    "io_uring_setup": lambda s: call("io_uring_setup", 1, s.room),
    "userfaultfd": lambda s: call("userfaultfd", 1),
    "epoll_create1": lambda s: call("epoll_create1", 0),
    "bpf": lambda s: call("bpf", 0, struct.pack("4I", 2, 4, 4, 1).ljust(120, b"\0"), 120),
    # Programs, processes and rights.
    "execve": _executes,
    "fork": lambda s: _forks("clone", signal.SIGCHLD, 0, 0, 0, 0),
    "clone in a user namespace": lambda s: _forks(
        "clone", _CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0
    ),
    "clone3": lambda s: _forks("clone3", _CLONE_ARGS, len(_CLONE_ARGS)),
    "unshare": lambda s: call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS),
    "prctl": lambda s: call("prctl", 4, 1, 0, 0, 0),
    "seccomp": lambda s: call("seccomp", 2, 0, struct.pack("I", 0x7FFF0000)),
    "setresuid": lambda s: call("setresuid", os.getuid(), os.getuid(), os.getuid()),
    "personality": lambda s: call("personality", 0xFFFFFFFF),
    "prlimit64, more memory for itself": _raise_memory,
    "landlock_create_ruleset": lambda s: call("landlock_create_ruleset", 0, 0, 1),
    # Another architecture's calls.
    "i386": _i386,
    "x32": _x32,
}
