"""Write tests/data/clips/hand-8.mp4: `python -m tests.data.make_hand_clip DATA`.

A hand shows an eight before a drawn background while espeak-ng says it. The photograph is of a
signer that training never saw (DATA/signdigits, Apache-2.0: see tests/data/NOTICE.md), and so
is the kind of background.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model.training import backgrounds
from model.training.handsigns.cutout import cut_out
from tests.data.make_clips import FOLDER, FRAME_RATE, SECONDS, encoded, spoken

Bytes = NDArray[np.uint8]

DIGIT = 8
#: Frame (width, height), the hand's height and its left edge, in pixels.
SIZE, HEIGHT, LEFT = (320, 240), 170, 175
#: The photograph, of a signer of the test half, and the drawn background, of a kind to test on.
PHOTOGRAPH, KIND, SEED = "signdigits/images/8_s045_0.jpg", "bricks", 5


def main(data: Path) -> None:
    file = FOLDER / f"hand-{DIGIT}.mp4"
    frames = shown(data)
    file.write_bytes(encoded(frames, spoken(DIGIT), "mp4", "libx264", "aac"))
    print(f"{file}: {file.stat().st_size} bytes")


def shown(data: Path) -> list[Bytes]:
    """Return frames, uint8 RGB [h, w, 3], of the hand before the background; all are equal."""
    photograph = cv2.imread(str(data / PHOTOGRAPH))
    if photograph is None:
        raise SystemExit(f"{data / PHOTOGRAPH}: cannot be read")
    hand = cut_out(np.ascontiguousarray(photograph[:, :, ::-1]))
    left, top, _, bottom = hand.box
    scale = HEIGHT / (bottom - top)
    height = SIZE[1]
    matrix = np.array([[scale, 0, LEFT - scale * left], [0, scale, height - scale * bottom]])
    colour = cv2.warpAffine(hand.colour, matrix, SIZE, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(hand.cover, matrix, SIZE).astype(np.float32)[:, :, None] / 255
    drawn = backgrounds.KINDS[KIND](np.random.default_rng(SEED))
    ground = cv2.resize(drawn, SIZE).astype(np.float32)
    frame = np.rint(ground + (colour - ground) * cover).astype(np.uint8)
    return [frame] * round(SECONDS * FRAME_RATE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
