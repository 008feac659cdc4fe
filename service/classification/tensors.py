"""Preprocessed tensors in place of files: check them, and describe them as a decoded clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from model.preprocess.prepared import Prepared
from service.decoding.job import DecodeResult, StreamInfo
from service.errors import Error, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.checkpoint import Card


def decoded_tensors(
    tensors: Mapping[str, NDArray[np.float32]], name: str, card: Card, steps: int
) -> DecodeResult:
    """Return tensors [T or 1, C, H, W] by stream as the decoded clip of a checkpoint.

    Raises Problem INVALID_FIELD for an unknown stream, another shape and values that are not
    finite; UNUSABLE where a stream is missing that the checkpoint needs.
    """
    unknown = [stream for stream in tensors if stream not in card.streams]
    if unknown:
        detail = (
            f"The checkpoint {name} has no stream {unknown[0]}; its streams: "
            f"{', '.join(card.streams)}."
        )
        raise Problem(Error.INVALID_FIELD, detail, field=unknown[0])
    missing = [stream for stream in card.streams if stream not in tensors]
    if missing and (not tensors or not card.missing_streams):
        detail = f"The checkpoint {name} needs a tensor of {' and '.join(missing)}."
        raise Problem(Error.UNUSABLE, detail, field=missing[0])
    prepared = {stream: _prepared(stream, tensors[stream], card, steps)
                for stream in card.streams if stream in tensors}  # fmt: skip
    infos = {
        stream: StreamInfo(used=True)
        if stream in tensors
        else StreamInfo(used=False, reason="no tensor was sent")
        for stream in card.streams
    }
    return DecodeResult(prepared, infos, decode_s=0.0, preprocess_s=0.0)


def _prepared(stream: str, tensor: NDArray[np.float32], card: Card, steps: int) -> Prepared:
    """Check a tensor. Raises Problem INVALID_FIELD."""
    spec = card.streams[stream]
    height, width = spec.size
    shape = (spec.channels, height, width)
    if tensor.ndim != 4 or tensor.shape[1:] != shape or tensor.shape[0] not in (1, steps):
        first = "1" if steps == 1 else f"1 or {steps}"
        detail = (
            f"The tensor of {stream} is {list(tensor.shape)}; needed is [{first}, "
            f"{', '.join(map(str, shape))}]."
        )
        raise Problem(Error.INVALID_FIELD, detail, field=stream)
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite
        values = np.ascontiguousarray(tensor, np.float32)
    if not np.isfinite(values).all():
        detail = f"The tensor of {stream} has values that are not finite float32."
        raise Problem(Error.INVALID_FIELD, detail, field=stream)
    return Prepared(
        values,
        rows="row",
        columns="column",
        row_edges=np.arange(height + 1, dtype=np.float64),
        column_edges=np.arange(width + 1, dtype=np.float64),
        canvas=lambda: _grey(values[len(values) // 2].mean(0)),
    )


def _grey(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return values [h, w] as grey, RGB [h, w, 3], dark for the lowest."""
    low, high = float(values.min()), float(values.max())
    grey = ((values - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
