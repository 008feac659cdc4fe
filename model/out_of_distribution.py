"""The out-of-distribution (OOD) score: how far a clip is from the clips of the calibration.

Answers have it as `out_of_domain`; the card's `domain` is what it is computed from. An output may
be of tensors or of arrays, for which torch is not imported: answers are made without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from model.checkpoint import Card, FeatureReference, LogitReference, TowerReference
    from model.output import ArrayT, Output


def ood_score(output: Output[ArrayT], card: Card, steps: int) -> ArrayT | None:
    """Return the OOD score [B] of each clip, from 0; 1 is the limit of the card's reference.

    Where the card has a reference of features, the score compares the features of each stream's
    tower, so that one stream out of distribution is enough: a blank page beside a spoken digit is
    beyond the limit. Otherwise it is the Mahalanobis distance of the streams' logits from the mean
    of the predicted class (arXiv 1807.03888). Returns None where the card has no reference for
    T = `steps` and the streams of the output.
    """
    names = used_streams(output, card)
    if card.domain is None or card.domain.steps != steps:
        return None
    predicted = output.logits.argmax(1)
    features = card.domain.features.get("+".join(names))
    if features is not None:
        scores: ArrayT = feature_score(output, predicted, features)
        return scores
    reference = card.domain.references.get("+".join(names))
    if reference is None:
        return None
    distance = mahalanobis_distance(joined_logits(output, names), predicted, reference)
    score: ArrayT = distance / reference.limit
    return score


def used_streams(output: Output[ArrayT], card: Card) -> list[str]:
    """Return the streams that the network ran with, in the card's order."""
    return [name for name in card.streams if name in output.stream_logits]


def feature_score(output: Output[ArrayT], predicted: ArrayT, reference: FeatureReference) -> ArrayT:
    """Return the OOD score [B] for predicted classes [B]: the sum of the towers' scores, divided by
    its limit.

    A tower's score is a softplus of its log odds: near 0 far below the tower's limit, 1 at it, and
    linear beyond.
    """
    scores = [
        _softplus(ood_log_odds(output.features[name], predicted, tower) - tower.limit) / math.log(2)
        for name, tower in reference.towers.items()
    ]
    score: ArrayT = reduce(add, scores) / reference.limit
    return score


def ood_log_odds(features: ArrayT, predicted: ArrayT, reference: TowerReference) -> ArrayT:
    """Return the log odds [B] that features [B, C], with predicted classes [B], are out of
    distribution."""
    means, linear, quadratic, bias = (_like(features, array) for array in reference.arrays)
    offset = features - means[predicted]
    log_odds: ArrayT = bias[predicted] + offset @ linear + (offset * offset) @ quadratic
    return log_odds


def joined_logits(output: Output[ArrayT], names: list[str]) -> ArrayT:
    """Return the logits of these streams, concatenated to [B, streams x classes], in float64."""
    return _join([output.stream_logits[name] for name in names])


def mahalanobis_distance(values: ArrayT, predicted: ArrayT, reference: LogitReference) -> ArrayT:
    """Return the Mahalanobis distance [B] of values [B, d], float64, from the means of classes
    [B]."""
    means = _like(values, np.asarray(reference.means, np.float64))
    precision = _like(values, np.asarray(reference.precision, np.float64))
    offset = values - means[predicted]
    distance: ArrayT = (offset @ precision * offset).sum(1).clip(0, None) ** 0.5
    return distance


def _like(values: ArrayT, array: NDArray[Any]) -> ArrayT:
    """Return an array as what `values` is, an array or a tensor."""
    if isinstance(values, np.ndarray):
        return array
    import torch

    return torch.from_numpy(array)


def _softplus(values: ArrayT) -> ArrayT:
    if isinstance(values, np.ndarray):
        return np.asarray(np.logaddexp(values, 0, dtype=values.dtype))
    from torch.nn.functional import softplus

    return softplus(values)


def _join(values: Sequence[ArrayT]) -> ArrayT:
    """Return values [B, n] beside each other in float64."""
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values, axis=1, dtype=np.float64)
    import torch

    return torch.cat(list(values), dim=1).double()
