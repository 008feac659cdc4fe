"""Messages over a stream socket between two threads that wait for each other: JSON objects."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")


def send(sock: socket.socket, message: dict[str, Any]) -> None:
    """Send a message. Raises OSError."""
    encoded = json.dumps(message).encode()
    sock.sendall(_LENGTH.pack(len(encoded)) + encoded)


def receive(sock: socket.socket) -> dict[str, Any]:
    """Wait for a message. Raises OSError: ConnectionError where the other end is closed."""
    (length,) = _LENGTH.unpack(_receive_bytes(sock, _LENGTH.size))
    message: dict[str, Any] = json.loads(_receive_bytes(sock, length))
    return message


def _receive_bytes(sock: socket.socket, count: int) -> bytes:
    received = sock.recv(count, socket.MSG_WAITALL)
    while len(received) < count:  # a signal, or a time limit, ends MSG_WAITALL early
        more = sock.recv(count - len(received))
        if not more:
            raise ConnectionError("the other process has closed the socket")
        received += more
    return received
