"""Read tags of the first directory (IFD) of TIFF and Exif data (TIFF 6.0)."""

from __future__ import annotations

from typing import Literal

IMAGE_WIDTH, IMAGE_LENGTH, ORIENTATION = 256, 257, 274
TILE_WIDTH, TILE_LENGTH, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 338, 339

#: Values of EXTRA_SAMPLES: alpha with which the colours are multiplied, or not.
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
#: Values of SAMPLE_FORMAT for samples other than unsigned integers.
SIGNED_INTEGER, FLOAT = 2, 3

_MAX_ENTRIES = 4096
_ENTRY_BYTES = 12
_SHORT = 3


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the picture, or of its tiles if larger: both are allocated."""
    width, height, tile_width, tile_height = read_tags(
        data, IMAGE_WIDTH, IMAGE_LENGTH, TILE_WIDTH, TILE_LENGTH
    )
    return max(width, tile_width), max(height, tile_height)


def read_tags(data: bytes, *tags: int) -> list[int]:
    """Return the first value of each tag; 0 for a tag that is missing."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"

    def number(offset: int, length: int) -> int:
        return int.from_bytes(data[offset : offset + length], order)

    directory = number(4, 4)
    values = dict.fromkeys(tags, 0)
    for entry in range(min(number(directory, 2), _MAX_ENTRIES)):
        offset = directory + 2 + _ENTRY_BYTES * entry
        tag, length = number(offset, 2), 2 if number(offset + 2, 2) == _SHORT else 4
        if tag in values:
            is_inline = number(offset + 4, 4) * length <= 4
            values[tag] = number(offset + 8 if is_inline else number(offset + 8, 4), length)
    return list(values.values())
