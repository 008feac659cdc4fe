"""Convert a video frame to sRGB, from its colour matrix, range, primaries and transfer function.

swscale converts matrix and range. Its conversion from HDR to SDR is correct as well, but takes
five seconds to compute a table for each new size. Here HDR is converted by one lookup table per
transfer function and a 3 x 3 matrix.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from numpy.typing import NDArray

from model.arrays import Float32Array, UInt8Array
from model.media.picture.rgb import composite, strips
from model.media.types import Unusable

_HDR = ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67
#: Luminance of reference white in HDR (ITU-R BT.2408) and peak luminance of HLG (ITU-R BT.2100),
#: in cd/m².
_REFERENCE_WHITE, _HLG_PEAK = 203.0, 1000.0
#: Luminance, relative to reference white, above which highlights are compressed.
_KNEE = 0.8
#: Linear RGB of BT.2020 to linear RGB of sRGB.
_BT2020_TO_SRGB = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)
#: Luminance of linear RGB of BT.2020.
_BT2020_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
#: AVCOL_SPC_UNSPECIFIED: the file does not say its colour matrix.
_UNSPECIFIED = 2
#: Height from which an unspecified matrix is taken as BT.709, and below as BT.601, as players do.
_HD_HEIGHT = 720
#: Largest frame in pixels that is converted with wide gamut or HDR, which takes 0.1 µs per pixel.
MAX_WIDE_GAMUT_PIXELS = 1920 * 1080


def to_srgb(frame: VideoFrame, width: int, height: int) -> UInt8Array:
    """Convert the frame to sRGB [height, width, 3]. Transparent frames are composited.

    Raises Unusable for colours that FFmpeg does not convert.
    """
    is_wide = is_wide_gamut(frame)
    has_alpha = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
    formats = {(0, 0): "rgb24", (0, 1): "rgba", (1, 0): "rgb48le", (1, 1): "rgba64le"}
    values = _reformat(frame, width, height, formats[is_wide, has_alpha])
    if is_wide:
        colours = _map_to_srgb(values, frame)
    else:
        colours = np.ascontiguousarray(values[..., :3], np.uint8)
    if not has_alpha or not values[..., 3].any():  # an alpha channel that was never written
        return colours
    alpha = values[..., 3] >> 8 if is_wide else values[..., 3]
    return composite(colours, np.asarray(alpha, np.uint8))


def is_wide_gamut(frame: VideoFrame) -> bool:
    """Return whether the frame is HDR or has the primaries of BT.2020."""
    return frame.color_trc in _HDR or frame.color_primaries == ColorPrimaries.BT2020


def _reformat(frame: VideoFrame, width: int, height: int, pixel_format: str) -> NDArray[Any]:
    """Resize the frame and convert it to RGB by swscale."""
    is_unspecified = frame.colorspace == _UNSPECIFIED and not frame.format.is_rgb
    is_bt709 = is_unspecified and frame.height >= _HD_HEIGHT
    try:
        return frame.to_ndarray(
            format=pixel_format,
            width=width,
            height=height,
            src_colorspace=Colorspace.ITU709 if is_bt709 else None,
            interpolation="AREA",
            threads=1,
        )
    except (ValueError, OSError) as error:
        raise Unusable(
            f"the colours of its picture are not supported ({frame.format.name}, "
            f"colour matrix {frame.colorspace}); RGB, BT.601, BT.709 and BT.2020 are"
        ) from error


def _map_to_srgb(values: NDArray[np.uint16], frame: VideoFrame) -> UInt8Array:
    """Convert 16-bit RGB [h, w, 3 or 4] in the frame's transfer function and primaries to sRGB."""
    to_linear, to_code = _linear_table(frame.color_trc), _srgb_table()
    colours = np.empty((*values.shape[:2], 3), np.uint8)
    for rows in strips(values):
        light = to_linear.take(values[rows, :, :3])  # linear RGB [h, w, 3]
        if frame.color_trc == ColorTrc.ARIB_STD_B67:
            light *= _HLG_PEAK / _REFERENCE_WHITE * _hlg_system_gain(light)
        if frame.color_primaries == ColorPrimaries.BT2020:
            light = light @ _BT2020_TO_SRGB.T
        if frame.color_trc in _HDR:
            _compress_highlights(light)
        indices = np.rint(np.clip(light, 0, 1, out=light) * 65_535)
        to_code.take(indices.astype(np.uint16), out=colours[rows])
    return colours


def _hlg_system_gain(light: Float32Array) -> Float32Array:
    """Return the gain [h, w, 1] of HLG's OOTF from scene light [h, w, 3] to display light."""
    return np.asarray((light @ _BT2020_LUMINANCE) ** np.float32(0.2), np.float32)[..., None]


def _compress_highlights(light: Float32Array) -> None:
    """Tone-map highlights of linear RGB [h, w, 3] in place so that no value exceeds 1.

    All channels of a pixel have the same gain.
    """
    brightest = np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2])
    is_highlight = brightest > _KNEE
    if is_highlight.any():
        peak = brightest[is_highlight]
        headroom = 1 - _KNEE
        gain = (1 - headroom * np.exp((_KNEE - peak) / headroom)) / peak
        light[is_highlight] *= gain[:, None]


@lru_cache(maxsize=4)
def _linear_table(transfer: int) -> Float32Array:
    """Return the linear light [65,536] of each code value; reference white is 1.

    For HLG it is scene light.
    """
    code = np.linspace(0, 1, 65_536)
    if transfer == ColorTrc.SMPTE2084:
        root = code ** (32 / 2523)
        ratio = np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)
        return np.asarray(10_000 / _REFERENCE_WHITE * ratio ** (8192 / 1305), np.float32)
    if transfer == ColorTrc.ARIB_STD_B67:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        bright = (np.exp((code - c) / a) + b) / 12
        return np.asarray(np.where(code <= 0.5, code**2 / 3, bright), np.float32)
    srgb = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return np.asarray(srgb, np.float32)


@lru_cache(maxsize=1)
def _srgb_table() -> UInt8Array:
    """Return the sRGB code value [65,536] of linear light from 0 to 1."""
    light = np.linspace(0, 1, 65_536)
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * code), np.uint8)
