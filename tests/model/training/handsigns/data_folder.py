"""Hands drawn as shapes before a light wall, and a data folder of them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

#: Signers to train on, and those held out.
SIGNERS = {"train": ("s000", "s001", "s002"), "val": ("s003", "s004")}
#: Angles in degrees of the fingers of a drawn hand. Digit d stretches those of its binary number.
_ANGLES = (-60, -25, 5, 35)
SKIN = (196, 150, 118)


def draw_mask(digit: int, shift: int = 0) -> NDArray[np.bool_]:
    """Return where the hand is in a picture of 100 x 100; 0 is a ring on an arm."""
    mask = np.zeros((100, 100), np.uint8)
    cv2.line(mask, (50 + shift, 105), (50 + shift, 70), 1, 22)
    if digit == 0:
        cv2.circle(mask, (50 + shift, 50), 18, 1, 9)
        return mask > 0
    cv2.ellipse(mask, (50 + shift, 66), (17, 16), 0, 0, 360, 1, -1)
    for bit, angle in enumerate(_ANGLES):
        if digit >> bit & 1:
            turn = np.radians(angle)
            end = (round(50 + shift + 46 * np.sin(turn)), round(62 - 46 * np.cos(turn)))
            cv2.line(mask, (50 + shift, 62), end, 1, 8)
    return mask > 0


def draw_photograph(digit: int, camera: int = 1, shift: int = 0) -> Bytes:
    """Return a photograph of a drawn hand, uint8 RGB [100, 100, 3].

    Camera 0: grey paper with a dark edge at the top. Camera 1: a white wall, dark in the corners,
    and a shadow beside the hand.
    """
    rng = np.random.default_rng([digit, camera, shift + 50])
    y, x = np.mgrid[-1:1:100j, -1:1:100j]
    mask = draw_mask(digit, shift)
    if camera == 0:
        wall = 172 + 12 * x - 8 * y
        wall[:3] = 120
    else:
        wall = 235 - 45 * (x**2 + y**2)
        shadow = cv2.dilate(mask.astype(np.uint8), np.ones((1, 4), np.uint8)) > 0
        wall = np.where(shadow, wall - 50, wall)
    picture = wall[:, :, None] * np.array([1, 0.99, 0.97])
    light = (1 + 0.15 * x - 0.1 * y)[:, :, None]
    picture = np.where(mask[:, :, None], light * np.array(SKIN), picture)
    picture = cv2.GaussianBlur(picture, (0, 0), 0.6) + rng.normal(0, 2, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def make_folder(folder: Path, speech: Path) -> Path:
    """Write a data folder of ten signs by five signers, with a copy of the folder `speech`."""
    images = folder / "signdigits" / "images"
    images.mkdir(parents=True)
    with (folder / "signdigits" / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "digit", "signer", "camera", "split"])
        for split, signers in SIGNERS.items():
            for signer in signers:
                number = int(signer[1:])
                for digit in range(10):
                    name = f"images/{digit}_{signer}_0.png"
                    picture = draw_photograph(digit, number % 2, shift=2 * number - 4)
                    cv2.imwrite(str(folder / "signdigits" / name), picture[:, :, ::-1])
                    rows.writerow([name, digit, signer, number % 2, split])
    shutil.copytree(speech, folder / "avdigits" / "speech")
    return folder
