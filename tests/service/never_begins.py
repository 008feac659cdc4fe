"""`python -m tests.service.never_begins …`: a process that hangs at its start."""

from __future__ import annotations

import time

if __name__ == "__main__":
    time.sleep(3600)
