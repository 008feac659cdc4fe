"""Digests of training data, by which a resumed run recognizes its data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray


def array_digest(arrays: Iterable[NDArray[Any]]) -> str:
    """Return the SHA-256, in hex, of the shapes and values of arrays, in their order."""
    digest = hashlib.sha256()
    for values in arrays:
        digest.update(f"{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
