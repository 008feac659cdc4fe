"""A real Redis or Valkey in a process of its own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.running_server import wait_until

#: The servers that are installed.
PROGRAMS = list(filter(shutil.which, ("redis-server", "valkey-server")))


class RedisServer:
    """A server on a socket in a folder; it keeps nothing on a disk."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._socket = folder / "redis.sock"
        self.url = f"unix://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "--port", "0", "--unixsocket", str(self._socket), "--save", "",
             "--dir", str(self._socket.parent)],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(self._socket.exists)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._socket.unlink(missing_ok=True)

    def pause(self) -> None:
        """Let it answer nothing, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)


@contextmanager
def running_redis(program: str | None) -> Iterator[RedisServer]:
    """A server for one test. Skips it where there is no server or no client."""
    pytest.importorskip("redis", reason="needs the extra redis")
    if program is None:
        pytest.skip("needs valkey-server or redis-server: apt-get install redis-server")
    # A socket's path may have 107 bytes only, which pytest's folders may exceed.
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(program, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()
