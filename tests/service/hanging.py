"""`HANGS=NAME python -m tests.service.hanging serve ...`: the command, on a disk that hangs.

Reading the card of the checkpoint NAME hangs: of the default one from the start, of another one at
its reload. It prints `hangs` then.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from model.checkpoint import card
from service import cli
from service.settings import Settings

NAME = os.environ["HANGS"]
read = card.read_regular
reads: list[Path] = []


def hang(file: Path, max_bytes: int) -> bytes:
    reads.append(file)
    if file.parent.name == NAME and (Settings().default_model == NAME or reads.count(file) > 1):
        print("hangs", flush=True)
        time.sleep(3600)
    return read(file, max_bytes)


if __name__ == "__main__":
    card.read_regular = hang
    cli.main()
