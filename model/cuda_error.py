"""CUDA's errors that leave the device usable, by the code (cudaError_t) that torch keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Out of memory, of what torch does not allocate itself: graphs and pinned memory.
_MEMORY_ALLOCATION = 2
#: Errors of recordings.
_STREAM_CAPTURE = range(900, 909)


def is_out_of_memory(exc: BaseException) -> bool:
    """Return whether an error is a lack of memory, of a device or of this machine."""
    return isinstance(exc, MemoryError | torch.OutOfMemoryError) or _code(exc) == _MEMORY_ALLOCATION


@contextmanager
def recordings_may_fail() -> Iterator[None]:
    """Raise RuntimeError where a recording fails, in place of the error of a device that is lost
    (torch.AcceleratorError)."""
    try:
        yield
    except torch.AcceleratorError as exc:
        if _code(exc) in _STREAM_CAPTURE:
            raise RuntimeError(f"recording a CUDA graph failed: {exc}") from exc
        raise


def _code(exc: BaseException) -> int | None:
    """Return the code of an error of CUDA; None of others."""
    return getattr(exc, "error_code", None) if isinstance(exc, torch.AcceleratorError) else None
