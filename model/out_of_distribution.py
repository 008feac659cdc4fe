"""The out-of-domain score: how far a clip is from those that a checkpoint was calibrated with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import softplus

if TYPE_CHECKING:
    from model.checkpoint import Card, FeatureReference, Reference, TowerReference
    from model.network import Output


def out_of_domain(output: Output, card: Card, steps: int) -> Tensor | None:
    """Return the score [B] of each clip: 1 at the limit of the card's reference.

    By the towers' features, which tell known clips from those of no class: a blank page beside a
    spoken digit is beyond the limit. By the streams' terms where the card has no reference of
    features: the Mahalanobis distance from the mean of the predicted class (arXiv 1807.03888). None
    where the card has no reference for T = `steps` and the streams of the output.
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
    return distance(terms(output, names), predicted, reference) / reference.limit


def used_streams(output: Output, card: Card) -> list[str]:
    """Return the streams that the network ran with, in the card's order."""
    return [name for name in card.streams if name in output.stream_logits]


def feature_score(output: Output, predicted: Tensor, reference: FeatureReference) -> Tensor:
    """Return the score [B], where the predicted classes are [B]: the sum of the towers' scores over
    its limit. A tower's is near 0 far within its limit, 1 at it, and grows as its evidence does."""
    scores = [
        softplus(evidence(output.features[name], predicted, tower) - tower.limit) / math.log(2)
        for name, tower in reference.towers.items()
    ]
    return torch.stack(scores).sum(0) / reference.limit


def evidence(features: Tensor, predicted: Tensor, reference: TowerReference) -> Tensor:
    """Return the evidence [B] against features [B, C], where the predicted classes are [B]."""
    means, linear, quadratic, bias = (torch.from_numpy(array) for array in reference.arrays)
    offset = features - means[predicted]
    return bias[predicted] + offset @ linear + offset.square() @ quadratic


def terms(output: Output, names: list[str]) -> Tensor:
    """Return the terms of these streams, joined, [B, d], in float64."""
    return torch.cat([output.stream_logits[name] for name in names], dim=1).double()


def distance(values: Tensor, predicted: Tensor, reference: Reference) -> Tensor:
    """Return the Mahalanobis distance [B] of terms [B, d] from the means of classes [B]."""
    means = torch.tensor(reference.means, dtype=torch.float64)
    precision = torch.tensor(reference.precision, dtype=torch.float64)
    offset = values - means[predicted]
    return torch.einsum("bi,ij,bj->b", offset, precision, offset).clamp_min(0).sqrt()
