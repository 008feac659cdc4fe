"""NumPy's .npz archives of untrusted content, within limits."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from model.media.types import MediaError, TooLarge, Unusable

#: First bytes of a zip archive.
MAGIC = b"PK\x03\x04"
#: Exceptions of reading a damaged archive.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, KeyError, NotImplementedError,
    RuntimeError, TypeError, OverflowError, SyntaxError,
)  # fmt: skip
#: Most arrays of an archive.
_MAX_ARRAYS = 16


def read_arrays(
    data: bytes, max_values: int, noun: str, limit: str | None = None
) -> dict[str, NDArray[Any]]:
    """Return the arrays of an archive by name, each of at most `max_values` values.

    `noun` names the values in messages: "events"; `limit`: as of MediaError. Raises MediaError.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if len(members) > _MAX_ARRAYS:
                raise Unusable(
                    f"the archive has {len(members)} arrays; at most {_MAX_ARRAYS} are accepted"
                )
            return {
                name: _member(archive, info, max_values, noun, limit)
                for name, info in members.items()
            }
    except MediaError:
        raise
    except _DAMAGED as exc:
        raise Unusable(f"the .npz archive is damaged: {exc}") from exc


def _member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_values: int, noun: str, limit: str | None
) -> NDArray[Any]:
    """Read one array, after a look at its header: a small archive can hold a huge array."""
    with archive.open(info) as file:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"array of the version {version}")
        shape, _, dtype = read_header[version](file)
        if dtype.hasobject:
            raise ValueError("an array of objects")
        count = int(np.prod(shape, dtype=np.float64))
        if count > max_values:
            detail = f"it has {count} {noun}; at most {max_values} are accepted"
            raise TooLarge(detail, limit=limit)
        size = count * dtype.itemsize
        content = file.read(size)
        if len(content) < size:
            raise EOFError("an array is cut off")
        return np.frombuffer(content, dtype).reshape(shape)
