"""`python -m tests.service.faulty serve …`: the command, with faults injected into the network.

A fault is a file in the folder FAULTS: its name is the kind, its content the number of runs that it
affects; `hang` lasts while its file exists. Only the network is changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.cli import main
from service.runtime.torch_import import import_torch

# As a service does: importing torch alone lets spikingjelly find Triton, whose compiler ends the
# process where no folder for temporary files can be written to.
import_torch()

import torch  # noqa: E402

from model.network import SCMRL, Output  # noqa: E402

FAULTS = Path(os.environ["FAULTS"])
ERRORS: dict[str, Callable[[], BaseException]] = {
    "fail": lambda: RuntimeError("an injected failure"),
    "out-of-memory": lambda: torch.OutOfMemoryError("an injected lack of memory"),
    "die": SystemExit,
    "lose": lambda: torch.AcceleratorError("an injected CUDA error: unspecified launch failure"),
}

compute = SCMRL.forward


def faulty(network: SCMRL, *args: Any, **options: Any) -> Output:
    """Run the network, or raise a fault whose file exists when the run begins."""
    for name, error in ERRORS.items():
        fault = FAULTS / name
        if fault.exists():
            left = int(fault.read_text()) - 1
            fault.write_text(str(left)) if left else fault.unlink()
            raise error()
    while (FAULTS / "hang").exists():
        (FAULTS / "hanging").touch()
        time.sleep(0.02)
    return compute(network, *args, **options)


if __name__ == "__main__":
    SCMRL.forward = faulty
    main()
