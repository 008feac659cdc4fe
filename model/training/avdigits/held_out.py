"""The part of the handwriting that is held out from training."""

from __future__ import annotations

#: The fraction of each digit's pictures, the last ones, held out.
HELD_OUT_PICTURES = 0.1
