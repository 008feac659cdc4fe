"""`python -m service.processes.device_process FD DEVICE THREADS LEVEL FORMAT`: the process of one
device, started where the service has several.

It runs the networks of all checkpoints on DEVICE, and ends with the service. Signals are the
service's to handle. FD is that of its control socket; THREADS are those of a network on a CPU;
LEVEL and FORMAT are of the log.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ignore signals before anything slow is imported, then serve until the service ends."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    if sys.platform == "linux":  # the control socket's end is not seen while this is stopped
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    fd, device, threads, level, kind = sys.argv[1:]
    from service.observability import logs
    from service.runtime import cores, garbage_collection, torch_import

    logs.configure(level, "json" if kind == "json" else "console")
    with garbage_collection.disabled():
        torch_import.import_torch()
        cores.set_threads(1)
        from service.device_link.server import DeviceServer

    DeviceServer(device, int(threads)).serve(socket.socket(fileno=int(fd)))
    logging.shutdown()
    os._exit(0)  # networks may be running in threads


if __name__ == "__main__":
    main()
