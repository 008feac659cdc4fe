"""`python -m service.processes.http_worker FD`: an HTTP worker, started by the engine process.

It accepts connections from the socket that all workers share, decodes, and makes answers; the
engine process runs the networks. Signals are the engine process's to handle. FD is that of its
WorkerConfig.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Ignore signals before anything slow is imported, then serve until the engine process ends
    it."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    from service.processes.worker_server import run

    run(int(sys.argv[1]))


if __name__ == "__main__":
    main()
