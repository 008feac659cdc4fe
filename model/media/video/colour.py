"""A video frame's colours to sRGB, whatever matrix, range, primaries and light they are coded in.

swscale undoes matrix and range. Its way from HDR to SDR is right as well, but computes a table for
five seconds for every size anew; here it is one table for each curve, and a matrix.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from numpy.typing import NDArray

from model.media.picture.picture_file import Bytes, on_paper, strips
from model.media.types import Unusable

Floats = NDArray[np.float32]

_HDR = ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67
#: Light of white paper in HDR, and of the brightest HLG, in cd/m² (ITU-R BT.2408 and BT.2100).
_WHITE, _HLG_PEAK = 203.0, 1000.0
#: Light, as a share of white paper's, above which it is compressed: highlights keep their shape.
_KNEE = 0.8
#: Linear RGB of BT.2020 to sRGB's, and its luminance.
_TO_SRGB = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
#: FFmpeg's number of a matrix that a file does not tell. From this height on it is taken for
#: BT.709 and below for BT.601, as players do.
_UNTOLD, _HD = 2, 720
#: Most pixels of a frame that swscale alone does not do: each takes a tenth of a microsecond.
LARGEST_WIDE = 1920 * 1080


def shown(frame: VideoFrame, width: int, height: int) -> Bytes:
    """The frame as sRGB [height, width, 3]; what is transparent shows the paper of `on_paper`.

    Raises Unusable for colours that FFmpeg does not convert.
    """
    wide = is_wide(frame)
    clear = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
    names = {(0, 0): "rgb24", (0, 1): "rgba", (1, 0): "rgb48le", (1, 1): "rgba64le"}
    values = _converted(frame, width, height, names[wide, clear])
    colours = _narrowed(values, frame) if wide else np.ascontiguousarray(values[..., :3], np.uint8)
    if not clear or not values[..., 3].any():  # a fourth byte that nobody filled in
        return colours
    alpha = values[..., 3] >> 8 if wide else values[..., 3]
    return on_paper(colours, np.asarray(alpha, np.uint8))


def is_wide(frame: VideoFrame) -> bool:
    """Whether it holds light or colours that sRGB has no place for."""
    return frame.color_trc in _HDR or frame.color_primaries == ColorPrimaries.BT2020


def _converted(frame: VideoFrame, width: int, height: int, name: str) -> NDArray[Any]:
    untold = frame.colorspace == _UNTOLD and not frame.format.is_rgb
    try:
        return frame.to_ndarray(
            format=name,
            width=width,
            height=height,
            src_colorspace=Colorspace.ITU709 if untold and frame.height >= _HD else None,
            interpolation="AREA",
            threads=1,
        )
    except (ValueError, OSError) as error:
        raise Unusable(
            f"its picture is in colours that are not read here ({frame.format.name}, "
            f"colour matrix {frame.colorspace}); RGB, BT.601, BT.709 and BT.2020 are"
        ) from error


def _narrowed(values: NDArray[np.uint16], frame: VideoFrame) -> Bytes:
    """RGB of 16 bits [h, w, 3 or 4] in the frame's light and primaries as sRGB [h, w, 3]."""
    light_of, code_of = _light(frame.color_trc), _codes()
    colours = np.empty((*values.shape[:2], 3), np.uint8)
    for rows in strips(values):
        light = light_of.take(values[rows, :, :3])
        if frame.color_trc == ColorTrc.ARIB_STD_B67:
            light *= _HLG_PEAK / _WHITE * _system_gain(light)
        if frame.color_primaries == ColorPrimaries.BT2020:
            light = light @ _TO_SRGB.T
        if frame.color_trc in _HDR:
            _compress(light)
        code = np.rint(np.clip(light, 0, 1, out=light) * 65_535)
        code_of.take(code.astype(np.uint16), out=colours[rows])
    return colours


def _system_gain(light: Floats) -> Floats:
    """What turns HLG's light of the scene [h, w, 3] into that of a display, [h, w, 1]."""
    return np.asarray((light @ _LUMINANCE) ** np.float32(0.2), np.float32)[..., None]


def _compress(light: Floats) -> None:
    """Bring light [h, w, 3] below 1, all three colours of a pixel alike, in place."""
    brightest = np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2])
    over = brightest > _KNEE
    if over.any():
        peak = brightest[over]
        room = 1 - _KNEE
        light[over] *= ((1 - room * np.exp((_KNEE - peak) / room)) / peak)[:, None]


@lru_cache(maxsize=4)
def _light(curve: int) -> Floats:
    """The light [65,536] that each value stands for, white paper's being 1 (HLG: the scene's)."""
    value = np.linspace(0, 1, 65_536)
    if curve == ColorTrc.SMPTE2084:
        root = value ** (32 / 2523)
        ratio = np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)
        return np.asarray(10_000 / _WHITE * ratio ** (8192 / 1305), np.float32)
    if curve == ColorTrc.ARIB_STD_B67:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        bright = (np.exp((value - c) / a) + b) / 12
        return np.asarray(np.where(value <= 0.5, value**2 / 3, bright), np.float32)
    screen = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.asarray(screen, np.float32)


@lru_cache(maxsize=1)
def _codes() -> Bytes:
    """The sRGB value [65,536] of each light."""
    light = np.linspace(0, 1, 65_536)
    value = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * value), np.uint8)
