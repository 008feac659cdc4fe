"""The time that a thread may keep Python's lock (GIL) while another one waits for it."""

from __future__ import annotations

import sys

#: Seconds; Python's own default is 5 ms. An event loop that is busy without a pause holds the lock
#: for a whole interval each time that an engine thread waits for it, hundreds of times a batch.
#: A clip beside four clients that pipeline requests without end takes 3.1 s at Python's default,
#: and 0.17 s with this.
SWITCH_INTERVAL_S = 0.0005


def shorten() -> None:
    """Have threads of this process pass the lock on after SWITCH_INTERVAL_S."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
