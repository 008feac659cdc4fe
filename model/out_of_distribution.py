"""The out-of-distribution (OOD) score: how unlike a clip is those of the calibration.

Answers have it as `out_of_domain`; the card's `domain` is what it is computed from.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import softplus

if TYPE_CHECKING:
    from model.checkpoint import Card, FeatureReference, LogitReference, TowerReference
    from model.network import Output


def ood_score(output: Output, card: Card, steps: int) -> Tensor | None:
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
        return feature_score(output, predicted, features)
    reference = card.domain.references.get("+".join(names))
    if reference is None:
        return None
    distance = mahalanobis_distance(joined_logits(output, names), predicted, reference)
    return distance / reference.limit


def used_streams(output: Output, card: Card) -> list[str]:
    """Return the streams that the network ran with, in the card's order."""
    return [name for name in card.streams if name in output.stream_logits]


def feature_score(output: Output, predicted: Tensor, reference: FeatureReference) -> Tensor:
    """Return the OOD score [B] for predicted classes [B]: the sum of the towers' scores, divided by
    its limit.

    A tower's score is a softplus of its log odds: near 0 far below the tower's limit, 1 at it, and
    linear beyond.
    """
    scores = [
        softplus(ood_log_odds(output.features[name], predicted, tower) - tower.limit) / math.log(2)
        for name, tower in reference.towers.items()
    ]
    return torch.stack(scores).sum(0) / reference.limit


def ood_log_odds(features: Tensor, predicted: Tensor, reference: TowerReference) -> Tensor:
    """Return the log odds [B] that features [B, C], with predicted classes [B], are out of
    distribution."""
    means, linear, quadratic, bias = (torch.from_numpy(array) for array in reference.arrays)
    offset = features - means[predicted]
    return bias[predicted] + offset @ linear + offset.square() @ quadratic


def joined_logits(output: Output, names: list[str]) -> Tensor:
    """Return the logits of these streams, concatenated to [B, streams x classes], in float64."""
    return torch.cat([output.stream_logits[name] for name in names], dim=1).double()


def mahalanobis_distance(values: Tensor, predicted: Tensor, reference: LogitReference) -> Tensor:
    """Return the Mahalanobis distance [B] of values [B, d] from the means of classes [B]."""
    means = torch.tensor(reference.means, dtype=torch.float64)
    precision = torch.tensor(reference.precision, dtype=torch.float64)
    offset = values - means[predicted]
    return torch.einsum("bi,ij,bj->b", offset, precision, offset).clamp_min(0).sqrt()
