"""The parts of the avdigits data that are held out from training."""

from __future__ import annotations

#: The held-out speaker, and the fraction of each digit's pictures, the last ones, held out.
HELD_OUT_SPEAKER = "george"
HELD_OUT_PICTURES = 0.1
