"""Windows of the sky that follow an object: where they lie, and how light and camera vary."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.arrays import UInt8Array
from model.training.augmentation import PictureChange, draw_picture_change
from model.training.drones.folder import View

#: Side of a window over the longer side of the object's box: in training at full difficulty, and
#: in the clips that are tested on.
SIDES = (1.5, 3.6)
CLIP_SIDES = (1.9, 2.8)
#: Side in pixels of the middle of a window that is drawn, and that of the whole window then: the
#: network sees half of it, so that what lies further out need not be drawn.
DRAWN_SIDE, _WINDOW_SIDE = 96, 128
#: Side of a window of the background over that of the view it is cut from.
BACKGROUND_SIDES = (0.4, 1.0)
#: Greatest distance of the object from the window's centre over the window's side.
_OFFSET, _CLIP_OFFSET = 0.22, 0.04
#: Greatest rotation in degrees, and change of aspect (factor).
_TILT, _ASPECT = 15.0, 1.2
#: Shares of pictures in training that are grey, and that are negatives: dark objects are bright.
_GREY, _NEGATIVE = 0.25, 0.1
#: Grain over that of other photographs: a small object in haze differs by few grey levels.
_GRAIN = 0.3


@dataclass(frozen=True)
class Window:
    """A window, the same for all views of a clip.

    `side`: over the longer side of the box, or of the view where there is none. `offset` (x, y) of
    its centre from that of the box, over its side; without a box, 0 to 1 of the room for it.
    `linear` float64 [2, 2]: rotation, aspect, mirror image.
    """

    side: float
    offset: tuple[float, float]
    linear: NDArray[np.float64]

    def cut(self, view: View, size: int) -> UInt8Array:
        """Return the window, uint8 RGB [size, size, 3]. The border of the view is extended."""
        height, width = view.picture.shape[:2]
        if view.box is None:
            side = self.side * min(height, width)
            room = np.array([width, height]) - side
            centre = side / 2 + (np.array(self.offset) + 0.5) * room
        else:
            left, top, across, down = view.box
            side = self.side * max(across, down)
            centre = np.array([left + across / 2, top + down / 2]) + side * np.array(self.offset)
        matrix = np.empty((2, 3))
        matrix[:, :2] = self.linear * side / size
        matrix[:, 2] = centre - matrix[:, :2] @ (size / 2, size / 2)
        source: Any = view.picture
        if side > 1.5 * size:
            source = cv2.GaussianBlur(source, (0, 0), 0.4 * side / size)
        window: Any = cv2.warpAffine(
            source, matrix, (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        return np.asarray(window, np.uint8)


def draw_window(rng: Generator, has_box: bool, difficulty: float) -> Window:
    """Draw a window to train on. Without difficulty, it is as in a clip that is tested on."""
    low, high = np.log(SIDES if has_box else BACKGROUND_SIDES)
    middle = np.log(np.mean(CLIP_SIDES)) if has_box else high
    side = np.exp(middle + difficulty * (rng.uniform(low, high) - middle))
    reach = _CLIP_OFFSET + difficulty * (_OFFSET - _CLIP_OFFSET) if has_box else 0.5
    tilt = np.radians(rng.uniform(-_TILT, _TILT) * difficulty)
    aspect = _ASPECT ** (rng.uniform(-0.5, 0.5) * difficulty)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    across, down = rng.uniform(-reach, reach, 2)
    return Window(
        float(side), (float(across), float(down)), turn @ np.diag((mirror * aspect, 1 / aspect))
    )


def draw_clip_window(rng: Generator, has_box: bool) -> Window:
    """Draw a window that follows an object as in the clips that are tested on."""
    sides, reach = (CLIP_SIDES, _CLIP_OFFSET) if has_box else ((0.8, 1.0), 0.5)
    across, down = rng.uniform(-reach, reach, 2)
    return Window(float(rng.uniform(*sides)), (float(across), float(down)), np.eye(2))


def middle_of(window: Window, view: View) -> Window:
    """Return the middle of a window that follows an object, DRAWN_SIDE pixels of _WINDOW_SIDE; a
    window of the background has no middle, and is drawn as it is."""
    if view.box is None:
        return window
    return replace(window, side=window.side * DRAWN_SIDE / _WINDOW_SIDE)


def draw_light(rng: Generator, difficulty: float) -> PictureChange:
    """Draw a change of colours, a blur and grain: the window has a place already."""
    change = draw_picture_change(rng, difficulty, mirror=False)
    grey = rng.random() < _GREY * difficulty
    contrast = -change.contrast if rng.random() < _NEGATIVE * difficulty else change.contrast
    return replace(
        change, matrix=np.eye(3, dtype=np.float32), hidden=None, contrast=contrast,
        saturation=0.0 if grey else change.saturation, grain=change.grain * _GRAIN,
    )  # fmt: skip
