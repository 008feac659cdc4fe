"""`python -m tests.service.slow serve ...`: the command, whose checkpoints take an hour to load.

It prints `imports` at the first import of a slow module.
"""

from __future__ import annotations

import time
from typing import Any

from service.cli import main
from service.runtime import torch_import

preload = torch_import.preload


def announced_preload() -> None:
    print("imports", flush=True)
    preload()


def never(*arguments: Any) -> None:
    time.sleep(3600)


if __name__ == "__main__":
    torch_import.preload = announced_preload
    from service.inference import model_loader

    model_loader.load = never
    main()
