"""Augmentation of natural pictures, of sounds, and of spectrograms.

`strength` is 0 (none) to 1. The generator alone decides what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from model.arrays import Float32Array, UInt8Array

#: Least share of a picture's area that a crop keeps, and greatest change of its aspect.
_MIN_AREA, _MAX_ASPECT = 0.5, 1.25
#: Greatest rotation in degrees.
_MAX_DEGREES = 10.0
#: Luma of RGB (ITU-R BT.601).
_LUMA = np.asarray((0.299, 0.587, 0.114), np.float32)


@dataclass(frozen=True)
class PictureChange:
    """One random change, the same for all pictures of a clip.

    `matrix` maps the new picture's pixels to the old one's, both in units of their sides.
    `contrast`, `brightness`, `tint` (per channel) and `saturation` change colours; `sigma` is of
    a blur in pixels, `grain` of noise in grey levels; `hidden` (left, top, right, bottom), in
    units of the sides, is painted over.
    """

    matrix: Float32Array
    contrast: float
    brightness: float
    tint: Float32Array
    saturation: float
    sigma: float
    grain: float
    hidden: tuple[float, float, float, float] | None

    def apply(self, picture: UInt8Array, rng: Generator) -> UInt8Array:
        """Return the changed picture, of the same size."""
        height, width = picture.shape[:2]
        changed: Any = picture
        if not np.array_equal(self.matrix, np.eye(3)):
            scale = np.diag((width, height, 1)).astype(np.float32)
            matrix: Any = scale @ self.matrix @ np.linalg.inv(scale)
            changed = cv2.warpAffine(
                picture, matrix[:2], (width, height),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101,
            )  # fmt: skip
        if self.sigma > 0:
            changed = cv2.GaussianBlur(changed, (0, 0), self.sigma)
        values: Any = changed.astype(np.float32)
        grey = (values @ _LUMA)[:, :, None]
        values = grey + np.float32(self.saturation) * (values - grey)
        mean = values.mean()
        values = (values - mean) * np.float32(self.contrast) + mean * np.float32(self.brightness)
        values *= self.tint
        if self.grain > 0:
            values += rng.standard_normal(values.shape, np.float32) * np.float32(self.grain)
        if self.hidden is not None:
            left, top, right, bottom = self.hidden
            rows = slice(round(top * height), round(bottom * height))
            columns = slice(round(left * width), round(right * width))
            values[rows, columns] = mean
        return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def draw_picture_change(rng: Generator, strength: float, mirror: bool) -> PictureChange:
    """Draw a crop, rotation, mirror image, colours, blur, noise and occlusion."""
    side = np.sqrt(1 - strength * rng.uniform(0, 1 - _MIN_AREA))
    aspect = np.sqrt(np.exp(strength * rng.uniform(-1, 1) * np.log(_MAX_ASPECT)))
    across, down = min(1.0, side * aspect), min(1.0, side / aspect)
    if mirror and rng.random() < 0.5:
        across = -across
    angle = np.deg2rad(strength * rng.uniform(-_MAX_DEGREES, _MAX_DEGREES))
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.asarray(((cos, -sin), (sin, cos))) @ np.diag((across, down))
    room = 1 - np.asarray((abs(across), abs(down)))
    centre = 0.5 + (rng.random(2) - 0.5) * room
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre - linear @ (0.5, 0.5)
    saturation = 0.0 if rng.random() < 0.15 * strength else 1 + strength * rng.uniform(-0.5, 0.5)
    return PictureChange(
        matrix=matrix.astype(np.float32),
        contrast=float(np.exp(strength * rng.uniform(-0.4, 0.4))),
        brightness=float(np.exp(strength * rng.uniform(-0.4, 0.4))),
        tint=np.exp(strength * rng.uniform(-0.1, 0.1, 3)).astype(np.float32),
        saturation=float(saturation),
        sigma=float(rng.uniform(0.3, 1.5)) if rng.random() < 0.25 * strength else 0.0,
        grain=float(rng.uniform(0, 12)) if rng.random() < 0.4 * strength else 0.0,
        hidden=_draw_box(rng) if rng.random() < 0.25 * strength else None,
    )


def _draw_box(rng: Generator) -> tuple[float, float, float, float]:
    """Draw a box of 4 to 16 % of the picture."""
    width, height = rng.uniform(0.2, 0.4, 2)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return float(left), float(top), float(left + width), float(top + height)


def draw_frames(
    frames: Sequence[UInt8Array], steps: int, rng: Generator, strength: float
) -> list[UInt8Array]:
    """Return a picture for each time step, or one of a single picture.

    It is from the centre of the step's part of the time or, the likelier the greater the strength,
    from elsewhere in that part.
    """
    count = len(frames)
    if count == 1:
        return list(frames)
    offsets = 0.5 + strength * rng.uniform(-0.5, 0.5, steps)
    at = (np.arange(steps) + offsets) * count / steps
    return [frames[min(count - 1, int(index))] for index in at]


def augment_sound(
    samples: Float32Array, rate: int, rng: Generator, strength: float
) -> Float32Array:
    """Return a sound [n] at another speed, coloured, with noise, and with its beginning moved."""
    factor = float(np.exp(strength * rng.uniform(-0.12, 0.12)))
    count = max(1, round(len(samples) / factor))
    at = np.linspace(0, len(samples) - 1, count)
    samples = np.asarray(np.interp(at, np.arange(len(samples)), samples), np.float32)
    if rng.random() < 0.5 * strength:  # another microphone: a first-order tilt of the spectrum
        tilt = np.float32(rng.uniform(-0.5, 0.9))
        before = np.concatenate([samples[:1], samples[:-1]])
        samples = np.asarray(samples - tilt * before, np.float32)
    if rng.random() < 0.6 * strength:
        power = float(np.mean(samples**2)) * 10 ** (-rng.uniform(5, 40) / 10)
        noise = _noise(len(samples), rng) * np.float32(np.sqrt(power))
        samples = np.asarray(samples + noise, np.float32)
    shift = round(strength * float(rng.uniform(-0.25, 0.25)) * min(len(samples), 4 * rate))
    if shift > 0:
        return np.concatenate([_noise(shift, rng) * np.float32(1e-4), samples])
    return np.asarray(samples[-shift:] if -shift < len(samples) else samples, np.float32)


def _noise(count: int, rng: Generator) -> Float32Array:
    """Return white or brownish noise [n] of power 1."""
    noise: Any = rng.standard_normal(count, np.float32)
    if rng.random() < 0.5 and count > 64:
        kernel = np.exp(-np.arange(32, dtype=np.float32) / np.float32(rng.uniform(1, 10)))
        noise = np.asarray(np.convolve(noise, kernel, "same"), np.float32)
    return np.asarray(noise / max(float(noise.std()), 1e-9), np.float32)


def mask_spectrogram(tensor: Float32Array, rng: Generator, strength: float) -> Float32Array:
    """Blank up to two stripes each of bands and of columns of a spectrogram [1, 1, H, W]
    (SpecAugment, arXiv 1904.08779)."""
    masked = tensor.copy()
    plane = masked[0, 0]
    low = plane.min()
    for axis, share in ((0, 0.15), (1, 0.2)):
        length = plane.shape[axis]
        for _ in range(2):
            if rng.random() < 0.5 * strength:
                size = int(rng.integers(1, max(2, round(share * length))))
                first = int(rng.integers(0, length - size + 1))
                stripe = slice(first, first + size)
                plane[(stripe, slice(None)) if axis == 0 else (slice(None), stripe)] = low
    return masked
