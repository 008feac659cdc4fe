"""Find a free port, and ask the service that listens on it."""

from __future__ import annotations

import http.client
import socket


def status(port: int, path: str) -> int | None:
    """Return the HTTP status of a GET; None where nothing listens on the port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
