"""The speaker who is held out from training."""

from __future__ import annotations

#: The held-out speaker.
HELD_OUT_SPEAKER = "george"
