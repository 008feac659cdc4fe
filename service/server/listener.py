"""The socket that is listened on, and the limit of open files."""

from __future__ import annotations

import logging
import resource
import socket

log = logging.getLogger("scmrl.http")

#: Connections that the kernel keeps until they are accepted.
BACKLOG = 2048
#: Open files that are kept back: libraries, checkpoints being loaded, logs, the listener.
_RESERVED_FILES = 128
#: Open files of one decoding process: its socket and its stderr, with those of its successor.
_FILES_PER_DECODER = 6
#: What is left for connections where the limit is very low.
_FEWEST = 16
#: Open files that can still be had when a warning is due.
_LAST_FILES = 8


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port that is taken is told of before anything is loaded.

    Its protocol is TCP by name: asyncio sets TCP_NODELAY on no other. Raises OSError.
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
    """Raise the soft limit of open files to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as exc:  # as where the hard limit is above the kernel's
            log.warning("the limit of open files stays %d: %s", soft, exc)


def connections_within_file_limit(wanted: int, decode_workers: int) -> int:
    """Of `wanted` connections those that leave files for decoding processes and libraries."""
    file_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if file_limit == resource.RLIM_INFINITY:
        return wanted
    room = max(_FEWEST, file_limit - _RESERVED_FILES - _FILES_PER_DECODER * decode_workers)
    if room < wanted:
        log.warning(
            "at most %d connections are kept open, not %d: the limit of open files is %d "
            "(`ulimit -n`)", room, wanted, file_limit,
        )  # fmt: skip
    return min(wanted, room)


def warn_where_files_run_out(latest: int) -> None:
    """Warn where `latest`, the descriptor of a new connection, is among the last that can be had.

    Behind it libuv accepts connections with a descriptor that it keeps back, and closes them.
    """
    file_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if file_limit != resource.RLIM_INFINITY and latest >= file_limit - _LAST_FILES:
        log.warning(
            "nearly all of the %d files that may be open are: new connections are closed "
            "(`ulimit -n`, SCMRL_MAX_CONNECTIONS)", file_limit,
        )  # fmt: skip
