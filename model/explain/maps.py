"""Explain an answer: each stream's term of the logits, what it changes, and maps over tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from model.arrays import Float64Array
from model.config import STAGES, StreamConfig
from model.output import ArrayT, Output, StreamAttention
from model.preprocess.prepared import Prepared

#: Name of the head's bias among the contributions.
BIAS = "bias"


@dataclass(frozen=True)
class SpatialMap:
    """A map over the token grid of one stream.

    - `values` [rows, columns]. Of attention, that of the other streams to this one: not negative,
      with a sum of 1; all 0 if no query matched a key. Of a class activation map: terms of the
      label's logit, of any sign.
    - `rows`, `columns`: names of the axes: "y" and "x" (pixels of the frame), "frequency_hz" and
      "time_s", or others.
    - `row_edges` [rows + 1], `column_edges` [columns + 1]: where each cell begins and ends, in the
      axis's unit. Cells in the padding lie outside the frame or the sound.
    """

    values: Float64Array
    rows: str
    columns: str
    row_edges: Float64Array
    column_edges: Float64Array


@dataclass(frozen=True)
class StreamMaps:
    """Attention maps of one stream of one clip. None if the network has no such attention.

    `temporal` [T, T]: mean of 0.25 q k^T over heads and tokens; rows are the steps of the query,
    columns those of the key.
    """

    spatial: SpatialMap | None
    temporal: Float64Array | None


def contributions(
    output: Output[ArrayT], streams: Sequence[str], labels: Sequence[str], sample: int = 0
) -> dict[str, dict[str, float]]:
    """Return each stream's term of each label's logit for one sample of a batch, and the bias.

    The head is linear in the streams' pooled features, so the terms and the bias add up to the
    logit. A stream's features have already received the residuals of the others, so its term is
    that of its tower, not of what was in this stream alone: see `leave_one_out`. The terms of a
    missing stream are 0.
    """
    zeros = [0.0] * len(labels)
    terms = {
        name: output.stream_logits[name][sample].tolist() if name in output.stream_logits else zeros
        for name in streams
    }
    terms[BIAS] = output.bias.tolist()
    return {name: dict(zip(labels, values, strict=True)) for name, values in terms.items()}


def leave_one_out(
    output: Output[ArrayT],
    without: Mapping[str, Output[ArrayT]],
    streams: Sequence[str],
    labels: Sequence[str],
    sample: int = 0,
) -> dict[str, dict[str, float]]:
    """Return the change of each label's logit by each stream, for one sample of a batch.

    That is the logit of `output`, of all streams of the sample, minus the logit of `without` this
    stream. A stream that is not in `without` changes nothing.
    """
    logits = output.logits[sample]
    return {
        name: dict(
            zip(labels, (logits - without[name].logits[sample]).tolist(), strict=True)
            if name in without
            else dict.fromkeys(labels, 0.0)
        )
        for name in streams
    }


def attention_maps(
    attention: StreamAttention[ArrayT], prepared: Prepared, stream: StreamConfig, sample: int = 0
) -> StreamMaps:
    """Return the maps of one stream of one sample of a batch, with axes in the source's units.

    `prepared` is the network's input of the stream.
    """
    spatial, temporal = attention.spatial, attention.temporal
    return StreamMaps(
        spatial=None if spatial is None else _add_axes(_array(spatial[sample]), prepared, stream),
        temporal=None if temporal is None else _array(temporal[sample]),
    )


def class_activation_map(
    token_logits: ArrayT, label: int, prepared: Prepared, stream: StreamConfig, sample: int = 0
) -> SpatialMap:
    """Return what each token of a stream adds to the logit of the class with index `label`.

    The values sum to the stream's term of that logit (`contributions`). `token_logits`
    [B, rows, columns, classes] are those of `Output.token_logits`; `prepared` is the network's
    input of the stream. With α > 0 the tokens have received the residuals of the other streams.
    """
    return _add_axes(_array(token_logits[sample][:, :, label]), prepared, stream)


def _add_axes(values: Float64Array, prepared: Prepared, stream: StreamConfig) -> SpatialMap:
    return SpatialMap(
        values,
        prepared.rows,
        prepared.columns,
        _token_edges(prepared.row_edges, len(values), stream),
        _token_edges(prepared.column_edges, values.shape[1], stream),
    )


def _token_edges(edges: Float64Array, tokens: int, stream: StreamConfig) -> Float64Array:
    """Return the edges [tokens + 1] of the tokens, from those of the tensor's cells.

    Each stage of patch splitting halves a side, so a token covers 2^stages cells; the last one
    covers the remainder.
    """
    cells = 2 ** STAGES[stream.splitting]
    return np.asarray(edges[np.minimum(np.arange(tokens + 1) * cells, len(edges) - 1)])


def _array(values: ArrayLike) -> Float64Array:
    return np.asarray(values, np.float64)
