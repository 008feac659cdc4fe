"""`python -m tests.service.faulty serve …`: the command, with a network that fails when told to.

A fault is a file in the folder FAULTS, named after what happens and holding how many runs it
happens to; `hang` lasts for as long as its file is there. Nothing but the network is changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from model.network import SCMRL, Output
from service.cli import main

FAULTS = Path(os.environ["FAULTS"])
ERRORS: dict[str, Callable[[], BaseException]] = {
    "fail": lambda: RuntimeError("an injected failure"),
    "out-of-memory": lambda: torch.OutOfMemoryError("an injected lack of memory"),
    "die": SystemExit,
    "lose": lambda: torch.AcceleratorError("an injected CUDA error: unspecified launch failure"),
}

compute = SCMRL.forward


def faulty(network: SCMRL, *args: Any, **options: Any) -> Output:
    """The network's answer, unless a fault is told; one that is told meanwhile is the next's."""
    for name, error in ERRORS.items():
        told = FAULTS / name
        if told.exists():
            left = int(told.read_text()) - 1
            told.write_text(str(left)) if left else told.unlink()
            raise error()
    while (FAULTS / "hang").exists():
        (FAULTS / "hanging").touch()
        time.sleep(0.02)
    return compute(network, *args, **options)


if __name__ == "__main__":
    SCMRL.forward = faulty
    main()
