"""Fit the OOD score of a checkpoint by the streams' logits of known clips alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from model.arrays import Float64Array, Int64Array
from model.checkpoint import Card, LogitReference, OODReferences
from model.network import Output
from model.out_of_distribution import joined_logits, mahalanobis_distance
from model.training.out_of_distribution.folds import FOLDS, stratified_folds

#: Share of known clips within the limit.
_KEPT = 0.98
#: Fewest clips for each dimension of the covariance.
_CLIPS_PER_DIMENSION = 10
#: Why there is no reference.
TOO_FEW_LOGITS = (
    f"too few development clips: {_CLIPS_PER_DIMENSION} for each class and stream, and "
    f"{2 * FOLDS} of each class, are needed"
)
#: Weight of the covariance's diagonal, against its other entries.
_SHRINKAGE = 0.05


def fit_logit_references(
    card: Card, outputs: Iterable[Output], labels: Int64Array
) -> OODReferences | None:
    """Fit a reference at the card's T to each of `outputs`, for clips of classes `labels` [n].

    An output is of all clips, with all streams or with one alone. Returns None where there are too
    few clips: 10 are needed for each dimension, and 2 of each class in each fold.
    """
    references = {}
    for output in outputs:
        names = [name for name in card.streams if name in output.stream_logits]
        values = joined_logits(output, names).numpy()
        reference = _fit(values, labels, output.logits.argmax(1), len(card.labels))
        if reference is None:
            return None
        references["+".join(names)] = reference
    return OODReferences(steps=card.steps, references=references)


def _fit(
    values: Float64Array, labels: Int64Array, predicted: torch.Tensor, classes: int
) -> LogitReference | None:
    if len(values) < _CLIPS_PER_DIMENSION * values.shape[1]:
        return None
    if np.bincount(labels, minlength=classes).min() < 2 * FOLDS:
        return None
    distances = np.empty(len(labels))
    for own in stratified_folds(labels):
        reference = _reference(values[~own], labels[~own], classes, limit=1.0)
        held_out = torch.from_numpy(values[own])
        distances[own] = mahalanobis_distance(
            held_out, predicted[torch.from_numpy(own)], reference
        ).numpy()
    return _reference(values, labels, classes, float(np.quantile(distances, _KEPT)))


def _reference(
    values: Float64Array, labels: Int64Array, classes: int, limit: float
) -> LogitReference:
    means = np.stack([values[labels == label].mean(0) for label in range(classes)])
    within = values - means[labels]
    covariance = within.T @ within / len(values)
    diagonal = np.diag(np.diag(covariance) + 1e-9)
    precision = np.linalg.inv((1 - _SHRINKAGE) * covariance + _SHRINKAGE * diagonal)
    return LogitReference(means=_rows(means), precision=_rows(precision), limit=round(limit, 4))


def _rows(matrix: Float64Array) -> tuple[tuple[float, ...], ...]:
    """Return the matrix with 5 significant digits."""
    return tuple(tuple(float(f"{x:.5g}") for x in row) for row in matrix)
