"""Stratified folds, for cross-fitting."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model.arrays import BoolArray, Int64Array

#: Folds, each of which is measured by a fit to the others.
FOLDS = 5


def stratified_folds(labels: Int64Array, clips: Int64Array | None = None) -> Iterator[BoolArray]:
    """Yield for each fold whether each example [n] of classes `labels` [n] is in it.

    The clips of each class are dealt to the folds in turn, with all examples of them. `clips`: the
    number of the clip [n] that each example is of; None: each is of its own.
    """
    clips = np.arange(len(labels)) if clips is None else clips
    fold = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        fold[rows] = np.unique(clips[rows], return_inverse=True)[1] % FOLDS
    yield from (fold == part for part in range(FOLDS))
