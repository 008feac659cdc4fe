"""A service on this machine, asked from outside."""

from __future__ import annotations

import http.client
import socket


def status(port: int, path: str) -> int | None:
    """The status of a GET; None while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
