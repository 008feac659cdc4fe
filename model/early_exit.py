"""Early exit: the numbers of time steps after which a clip may stop."""

from __future__ import annotations


def exit_schedule(steps: int) -> tuple[int, ...]:
    """Return the runs of a clip that stops early: 1, 2, 4, … time steps, and T = `steps`.

    Each run begins at step 1, so that a clip that never stops costs at most 3 T steps.
    """
    return (*(1 << power for power in range((steps - 1).bit_length())), steps)
