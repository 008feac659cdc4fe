"""`python -m tests.service.two_devices serve ...`: the command, on a machine whose CPU is listed as
two devices, so that there are two processes."""

from __future__ import annotations

from service.cli import main
from service.runtime.torch_import import import_torch

NAMES = ["cpu", "cpu"]

if __name__ == "__main__":
    import_torch()
    from model import engine

    engine.devices = lambda name: NAMES
    main()
