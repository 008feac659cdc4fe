"""What of avdigits is held out from training."""

from __future__ import annotations

#: The speaker, and the last of each digit's pictures, that training never sees.
HELD_OUT_SPEAKER = "george"
HELD_OUT_PICTURES = 0.1
