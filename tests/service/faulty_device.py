"""The process of a device, with faults injected into the network: see tests.service.faulty."""

from __future__ import annotations

from model.network import SCMRL
from service.processes import device_process
from tests.service.faulty import faulty

if __name__ == "__main__":
    SCMRL.forward = faulty
    device_process.main()
