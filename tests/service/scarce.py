"""The command line in a process that may have 256 files open."""

from __future__ import annotations

import resource

from service.cli import main

FILES = 256

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES // 2, FILES))
    main()
