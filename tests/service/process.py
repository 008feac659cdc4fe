"""`scmrl serve` in its own process."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.conftest import ROOT
from tests.service.running_server import wait_until

#: Time limit of waits, in seconds.
WITHIN_S = 120

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Make the process end with its parent, if the tests are killed."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Serve:
    """The running command; `shown` and `logged` are its stdout and stderr so far.

    `module`: started instead of service.cli. `python`: the interpreter. `cwd`: the working folder.
    """

    def __init__(
        self,
        *arguments: object,
        module: str = "service.cli",
        python: Path | str = sys.executable,
        cwd: Path = ROOT,
        **settings: str,
    ) -> None:
        command = [str(python), "-m", module, "serve", *map(str, arguments)]
        environment = os.environ | {"COLUMNS": "200"} | settings
        self.process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, preexec_fn=_end_with_parent,
        )  # fmt: skip
        self._printed: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._readers = [
            threading.Thread(target=self._read, args=(name,), daemon=True) for name in self._printed
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        with getattr(self.process, name) as pipe:
            for line in pipe:
                self._printed[name].append(line)

    @property
    def shown(self) -> str:
        return "".join(self._printed["stdout"])

    @property
    def logged(self) -> str:
        return "".join(self._printed["stderr"])

    def address(self) -> str:
        """Wait until it is ready, and return the URL that it prints."""
        wait_until(
            lambda: (
                "curl" in self.shown
                or '"scmrl is ready' in self.logged  # in JSON
                or self.process.poll() is not None
            )
        )
        match = re.search(r"scmrl is ready on (http[^\s\"]+)", self.shown + self.logged)
        assert match, self.logged
        return match[1]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.code()

    def code(self) -> int:
        """Wait for its end, and return its exit code."""
        code = self.process.wait(WITHIN_S)
        for reader in self._readers:
            reader.join(WITHIN_S)
        return code
