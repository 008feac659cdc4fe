"""Animated WebP, which FFmpeg does not decode, by OpenCV; and the limit of all animations."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from model.media.picture import header, picture_file
from model.media.picture.rgb import to_rgb
from model.media.types import SLACK_S, Limits, Pictures, TooLarge, Unusable

#: FFmpeg's codecs that compose every frame on a full canvas, however small the changed region.
CANVAS_CODECS = ("gif", "apng")


def check_composed_pixels(frames: int, width: int, height: int, limits: Limits) -> None:
    """Raise TooLarge if all frames have more than `limits.max_composed_pixels` pixels."""
    if frames * width * height > limits.max_composed_pixels:
        raise TooLarge(
            f"it has {frames} pictures of {width} x {height} pixels; width x height x pictures "
            f"may be at most {limits.max_composed_pixels} pixels",
            limit="max_composed_pixels",
        )


def is_animated_webp(data: bytes) -> bool:
    """Return whether this is a WebP with the animation flag."""
    return (
        header.detect_format(data) == "WebP"
        and data[12:16] == b"VP8X"
        and bool(int.from_bytes(data[20:21]) & 2)
    )


def read_webp_animation(data: bytes, frames: int, limits: Limits) -> Pictures:
    """Decode the pictures at the centres of `frames` equal parts of an animation's duration.

    Raises Unusable, and TooLarge. OpenCV decodes every frame, so all of them count.
    """
    width, height = header.read_size(data, "WebP", limits)
    count = data.count(b"ANMF")
    if count * width * height > limits.max_total_pixels:
        raise TooLarge(
            f"the WebP has {count} pictures of {width} x {height} pixels; "
            f"at most {limits.max_total_pixels} in total are accepted"
        )
    decoded, durations_ms = picture_file.decode_webp_frames(data, count)
    if not decoded:
        raise Unusable("this WebP picture is damaged or truncated: it cannot be decoded")
    ends_s = np.cumsum(np.maximum(durations_ms, 1)) / 1000
    duration_s = ends_s[-1]
    if duration_s > limits.max_duration_s + SLACK_S:
        detail = f"its pictures last longer than {limits.max_duration_s:g} s"
        raise TooLarge(detail, limit="max_duration_s")
    centres_s = [(part + 0.5) / frames * duration_s for part in range(frames)]
    indices = [min(bisect_right(ends_s, centre), len(ends_s) - 1) for centre in centres_s]
    max_pixels = limits.max_total_pixels // len(set(indices))
    pictures = {
        index: picture_file.shrink(to_rgb(decoded[index]), max_pixels) for index in set(indices)
    }
    starts_s = [0.0, *ends_s[:-1].tolist()]
    return Pictures(
        tuple(pictures[index] for index in indices), tuple(starts_s[index] for index in indices)
    )
