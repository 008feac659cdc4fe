"""What a running service holds: its memory and its processes."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Resident:
    """The service's own resident memory, and how many processes it has started."""

    service_mib: int
    processes: int


def service(url: str) -> int:
    """The process that listens at the address."""
    port = url.split(":")[2].split("/")[0]
    found = subprocess.run(
        ["pgrep", "-f", "service.cli serve"], check=True, capture_output=True, text=True
    ).stdout.split()
    for pid in found:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        if f"SCMRL_PORT={port}".encode() in environment.split(b"\0"):
            return int(pid)
    raise RuntimeError(f"no service at {url}")


def resident(pid: int) -> Resident:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    own = [entry for entry in os.listdir("/proc") if entry.isdecimal() and _parent(entry, pid)]
    return Resident(pages * os.sysconf("SC_PAGE_SIZE") // (1 << 20), len(own))


def _parent(entry: str, pid: int) -> bool:
    """Whether the process is the service's child or grandchild: the nursery's decoders are."""
    for _ in range(2):
        try:
            entry = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1]
        except (OSError, IndexError):
            return False
        if int(entry) == pid:
            return True
    return False
