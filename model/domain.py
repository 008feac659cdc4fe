"""The out-of-domain score: how far a clip is from those that a checkpoint was calibrated with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from model.checkpoint import Card, Reference
    from model.network import Output


def out_of_domain(output: Output, card: Card, steps: int, sample: int = 0) -> float | None:
    """Return the score of one sample of a batch: 1 at the limit of the card's reference.

    It is the Mahalanobis distance of the streams' terms from the mean of the predicted class
    (arXiv 1807.03888, on the terms), over the limit. None where the card has no reference for T =
    `steps` and the streams of the output.
    """
    names = [name for name in card.streams if name in output.stream_logits]
    if card.domain is None or card.domain.steps != steps:
        return None
    reference = card.domain.references.get("+".join(names))
    if reference is None:
        return None
    predicted = output.logits[sample : sample + 1].argmax(1)
    distances = distance(terms(output, names)[sample : sample + 1], predicted, reference)
    return float(distances[0]) / reference.limit


def terms(output: Output, names: list[str]) -> Tensor:
    """Return the terms of these streams, joined, [B, d], in float64."""
    return torch.cat([output.stream_logits[name] for name in names], dim=1).double()


def distance(values: Tensor, predicted: Tensor, reference: Reference) -> Tensor:
    """Return the Mahalanobis distance [B] of terms [B, d] from the means of classes [B]."""
    means = torch.tensor(reference.means, dtype=torch.float64)
    precision = torch.tensor(reference.precision, dtype=torch.float64)
    offset = values - means[predicted]
    return torch.einsum("bi,ij,bj->b", offset, precision, offset).clamp_min(0).sqrt()
