"""The result of a forward pass: of tensors, or of arrays where no network runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeVar

    #: torch.Tensor, or a NumPy array in a process that does not import torch.
    ArrayT = TypeVar("ArrayT", Tensor, NDArray[Any], default=Tensor)
else:
    from typing import TypeVar

    ArrayT = TypeVar("ArrayT")

#: Energy in pJ of adding a weight, and of multiplying by it and adding, in float32 at 45 nm and
#: 0.9 V: M. Horowitz, "Computing's energy problem", ISSCC 2014.
ACCUMULATE_PJ, MULTIPLY_ACCUMULATE_PJ = 0.9, 4.6


@dataclass(frozen=True)
class LayerOperations(Generic[ArrayT]):
    """The operations of one layer for each clip of a batch, over all time steps.

    - `accumulates` float64 [B]: additions of a weight, one for each spike and each of its targets.
    - `multiply_accumulates` float64 [B]: products with values that are not spikes.
    - `dense`: products of the same layer in a network of real values, which runs once.
    - `firing_rate` [B]: spikes of the layer's neurons a neuron and step, 0 to 1; None for a layer
      without neurons.
    """

    accumulates: ArrayT
    multiply_accumulates: ArrayT
    dense: int
    firing_rate: ArrayT | None = None

    @property
    def energy_pj(self) -> ArrayT:
        """Energy in pJ [B]."""
        return ACCUMULATE_PJ * self.accumulates + MULTIPLY_ACCUMULATE_PJ * self.multiply_accumulates

    @property
    def dense_energy_pj(self) -> float:
        """Energy in pJ of the same layer in a network of real values."""
        return MULTIPLY_ACCUMULATE_PJ * self.dense


@dataclass(frozen=True)
class StreamAttention(Generic[ArrayT]):
    """Attention maps of the other streams' queries over this stream.

    `spatial` [B, rows, columns] over the stream's token grid: non-negative, sums to 1, or all 0
    where q k^T is 0. `temporal` [B, T, T]: mean of 0.25 q k^T from the query's step (row) to the
    key's step (column). None where the network has no such attention. Other fusions have maps of
    their own: `cmqka` the share of a token's spikes that pass, `taaf` one softmax over the steps
    for all streams.
    """

    spatial: ArrayT | None
    temporal: ArrayT | None


@dataclass(frozen=True)
class Output(Generic[ArrayT]):
    """The result of a forward pass.

    - `logits` [B, classes], and `bias` [classes], the head's.
    - `residuals`, by stream: its cross-modal residual, mean over tokens, [T, B, C] (the features of
      the alignment loss).
    - `stream_logits`, by stream: the term [B, classes] of its tower, which has received the
      residuals of the other streams. The sum of the terms plus the bias is `logits`.
    - `features`, by stream: its tower's output [B, C], the mean over tokens and steps, which the
      head maps to its term.
    - `firing_rates`, by stream: spikes per neuron and step [B], 0 to 1, of the layers that make its
      tokens: the last stage of patch splitting, after its pooling, and the position stage.
    - `attention`, by the stream that the map lies on (the keys'); None where not requested.
    - `token_logits`, by stream: what each token adds to the stream's term,
      [B, rows, columns, classes]; their sum is `stream_logits`. Empty where attention was not
      requested, and for fusions of which a term is no sum over tokens.
    - `operations`, by layer; None where not requested.
    """

    logits: ArrayT
    bias: ArrayT
    residuals: dict[str, ArrayT] = field(default_factory=dict)
    stream_logits: dict[str, ArrayT] = field(default_factory=dict)
    features: dict[str, ArrayT] = field(default_factory=dict)
    firing_rates: dict[str, ArrayT] = field(default_factory=dict)
    attention: dict[str, StreamAttention[ArrayT]] | None = None
    token_logits: dict[str, ArrayT] = field(default_factory=dict)
    operations: dict[str, LayerOperations[ArrayT]] | None = None


#: The result of one clip, as answers are made of it: with B = 1, without residuals.
ArrayOutput: TypeAlias = Output[NDArray[Any]]
