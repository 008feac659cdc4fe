"""Listening sockets, and the limit of open files."""

from __future__ import annotations

import logging
import resource
import socket
from contextlib import suppress

log = logging.getLogger("scmrl.http")

#: Connections that the kernel queues until they are accepted.
BACKLOG = 2048
#: Open files reserved for libraries, checkpoints being loaded, logs and the listening socket.
_RESERVED_FILES = 128
#: Open files for one decoding process: its socket and its stderr, and those of its replacement.
_FILES_PER_DECODER = 6
#: Connections that are allowed in any case.
_MIN_CONNECTIONS = 16
#: Open files left when a warning is logged.
_LAST_FILES = 8


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, before anything is loaded: the port may be in use.

    asyncio sets TCP_NODELAY only on sockets created with IPPROTO_TCP. Raises OSError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as exc:  # for example, the hard limit exceeds fs.nr_open
            log.warning("the limit of open files stays %d: %s", soft, exc)


def connections_within_file_limit(maximum: int, decode_workers: int) -> int:
    """Return `maximum`, or fewer connections where the limit of open files is low.

    Files are left for `decode_workers` decoding processes and for libraries.
    """
    file_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if file_limit == resource.RLIM_INFINITY:
        return maximum
    room = max(_MIN_CONNECTIONS, file_limit - _RESERVED_FILES - _FILES_PER_DECODER * decode_workers)
    if room < maximum:
        log.warning(
            "at most %d connections are kept open, not %d: the limit of open files is %d "
            "(`ulimit -n`)", room, maximum, file_limit,
        )  # fmt: skip
    return min(maximum, room)


def disable_nagle(sock: socket.socket) -> None:
    """Send small segments at once."""
    if sock.family != socket.AF_UNIX:
        with suppress(OSError):  # the client may have gone already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def warn_near_file_limit(latest: int) -> None:
    """Warn where `latest`, the file descriptor of a new connection, is among the last.

    Beyond the limit, uvloop's libuv accepts connections with a reserved descriptor and closes them.
    """
    file_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if file_limit != resource.RLIM_INFINITY and latest >= file_limit - _LAST_FILES:
        log.warning(
            "nearly all of the %d allowed file descriptors are in use: new connections are closed "
            "(`ulimit -n`, SCMRL_MAX_CONNECTIONS)", file_limit,
        )  # fmt: skip
