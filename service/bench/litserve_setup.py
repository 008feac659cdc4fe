"""How LitServe is set up for a comparison."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LitServeSetup:
    """Worker processes on each device, and threads for torch and BLAS in each worker."""

    workers: int
    threads: int

    def __str__(self) -> str:
        workers = f"{self.workers} worker{'s' * (self.workers > 1)}"
        return f"{workers} of {self.threads} thread{'s' * (self.threads > 1)}"


def setups(cores: int) -> list[LitServeSetup]:
    """Return the set-ups to try on so many cores: from LitServe's default, one worker with all of
    them, to a worker for each core; numbers of workers are powers of two, or the cores."""
    counts = {2**n for n in range(cores.bit_length())} | {cores}
    return [LitServeSetup(workers, cores // workers) for workers in sorted(counts)]
