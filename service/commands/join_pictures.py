"""Join pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_GAP = 16  # pixels between and around the pictures
_WHITE = 255


def side_by_side(pngs: Sequence[bytes]) -> bytes:
    """Join PNGs side by side to one PNG, resized to the height of the tallest."""
    pictures = [_decode(png) for png in pngs]
    height = max(picture.shape[0] for picture in pictures)
    parts = [_margin(height)]
    for picture in pictures:
        parts += [_resize(picture, height), _margin(height)]
    figure = cv2.copyMakeBorder(
        np.hstack(parts), _GAP, _GAP, 0, 0, cv2.BORDER_CONSTANT, value=(_WHITE,) * 3
    )
    _, png = cv2.imencode(".png", figure)
    return png.tobytes()


def _decode(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def _resize(picture: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    if picture.shape[0] == height:
        return picture
    width = round(picture.shape[1] * height / picture.shape[0])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _margin(height: int) -> NDArray[np.uint8]:
    return np.full((height, _GAP, 3), _WHITE, np.uint8)
