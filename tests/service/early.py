"""`EARLY=SIGNAL,... python -m tests.service.early serve ...`: the command, which sends itself
signals at its first import of a module outside the standard library.

Each but the last must leave it alive or raise SystemExit. It prints `alive` after the last.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType

from service import cli


class Sender:
    """Finds no module."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, of: ModuleType | None = None
    ) -> None:
        if name == "typer":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            *first, last = os.environ["EARLY"].split(",")
            for sig in first:
                with suppress(SystemExit):
                    os.kill(os.getpid(), signal.Signals[sig])
                time.sleep(0.05)  # two signals within 20 ms count as one
            os.kill(os.getpid(), signal.Signals[last])
            print("alive", flush=True)


if __name__ == "__main__":
    sys.meta_path.insert(0, Sender())  # type: ignore[arg-type]
    cli.main()
