"""What an answer rests on: each stream's exact share of the logits, and where it was looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from model.arrays import Float64Array
from model.config import STAGES, StreamConfig
from model.network import Output, StreamAttention
from model.preprocess.prepared import Prepared

#: Name of the head's own share among the contributions.
BIAS = "bias"


@dataclass(frozen=True)
class SpatialMap:
    """Where in one stream the other streams looked, over the stream's token grid.

    `values` [rows, columns] are not negative and sum to 1, or all 0 where no query met a key.
    `rows` and `columns` name the axes with their units ("y" and "x" in pixels of the frame,
    "frequency_hz", "time_s"); `row_edges` [rows + 1] and `column_edges` [columns + 1] are where
    each cell begins and ends, outside the frame or the sound where there is padding.
    """

    values: Float64Array
    rows: str
    columns: str
    row_edges: Float64Array
    column_edges: Float64Array


@dataclass(frozen=True)
class StreamMaps:
    """One stream's maps of one clip. None where the network has no such attention.

    `temporal` [T, T]: mean of 0.25 q k^T from the step that looks (row) to the step looked at.
    """

    spatial: SpatialMap | None
    temporal: Float64Array | None


def contributions(
    output: Output, streams: Sequence[str], labels: Sequence[str], sample: int = 0
) -> dict[str, dict[str, float]]:
    """Each stream's share of each label's logit for one sample of a batch, and the `bias`.

    The head is linear in the streams' pooled features, so the shares and the bias add up to the
    logit: nothing is approximated. A stream that was missing has 0.
    """
    silent = [0.0] * len(labels)
    shares = {
        name: output.stream_logits[name][sample].tolist()
        if name in output.stream_logits
        else silent
        for name in streams
    }
    shares[BIAS] = output.bias.tolist()
    return {name: dict(zip(labels, values, strict=True)) for name, values in shares.items()}


def attention_maps(
    attention: StreamAttention, prepared: Prepared, stream: StreamConfig, sample: int = 0
) -> StreamMaps:
    """The maps of one stream and one sample of a batch, with axes in the source's units.

    `prepared` is what the network was shown of the stream.
    """
    spatial, temporal = attention.spatial, attention.temporal
    return StreamMaps(
        spatial=None if spatial is None else _with_axes(_array(spatial[sample]), prepared, stream),
        temporal=None if temporal is None else _array(temporal[sample]),
    )


def _with_axes(values: Float64Array, prepared: Prepared, stream: StreamConfig) -> SpatialMap:
    return SpatialMap(
        values,
        prepared.rows,
        prepared.columns,
        _token_edges(prepared.row_edges, len(values), stream),
        _token_edges(prepared.column_edges, values.shape[1], stream),
    )


def _token_edges(edges: Float64Array, tokens: int, stream: StreamConfig) -> Float64Array:
    """Edges [tokens + 1] of the tokens, from those of the tensor's cells.

    Each stage of patch splitting halves a side, so a token stands for 2^stages cells; the last
    one for what is left.
    """
    cells = 2 ** STAGES[stream.splitting]
    return np.asarray(edges[np.minimum(np.arange(tokens + 1) * cells, len(edges) - 1)])


def _array(values: Tensor) -> Float64Array:
    return np.asarray(values.numpy(), np.float64)
