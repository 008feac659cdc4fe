"""Run a server in a process that may have few files open, until its stdin ends.

Prints its port. Arguments: the limit of open files, and of connections.
"""

from __future__ import annotations

import logging
import resource
import sys

from tests.service.server.edge import running_edge


def main(file_limit: int, maximum: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (file_limit, file_limit))
    logging.basicConfig(level=logging.WARNING)
    with running_edge(maximum=maximum) as edge:
        print(edge.address[1], flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
