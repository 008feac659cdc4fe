"""Fit the OOD score of a checkpoint by its towers' features, and how fast the temperature grows
with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax

from model.arrays import Float64Array, Int64Array
from model.calibration import grown
from model.checkpoint import Card, FeatureReference, OODReferences, TowerReference
from model.engine.outputs import concatenate
from model.network import Output
from model.out_of_distribution import used_streams
from model.training.out_of_distribution.folds import FOLDS, stratified_folds
from model.training.out_of_distribution.logistic_regression import (
    Features,
    OODRegression,
    fit_ood_regression,
)
from model.training.temperature import fit_temperature

#: Share of held-out known clips within the limit.
_KEPT = 0.97
#: Fewest known examples, and fewest of each class, where each is of a clip of its own.
FEWEST, FEWEST_OF_CLASS = 200, 10
#: Fewest clips that training left out, and fewest known ones of each class, where there are several
#: examples of each. With one or two left out, 2 to 38 % of 200 other known clips were beyond the
#: limit, with four 0 to 14 %, and with eight 1 to 2 % (docs/your-own-model.md).
FEWEST_HELD_OUT, FEWEST_CLIPS_OF_CLASS = 4, 2
#: Of many classes, some may have few clips among those that are drawn, whatever the folder has.
_DRAWN = "among those drawn (--examples)"
#: Powers of the score that are tried.
_GROWTHS = np.linspace(0, 8, 81)


@dataclass(frozen=True)
class ClipOutputs:
    """Outputs of examples, with all streams (under None) or with one alone, and their classes [n].

    - `is_outlier`: by stream, whether the content [n] of this stream is out of distribution.
    - `clips`: the number of the clip [n] that each example is of; None: each is of its own.
    - `held_out`: whether training left the clip [n] out; None: no clip is among those that the
      network was trained on.
    """

    outputs: Mapping[str | None, Output]
    labels: Int64Array
    is_outlier: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    clips: Int64Array | None = None
    held_out: NDArray[np.bool_] | None = None

    def joined(self, others: ClipOutputs) -> ClipOutputs:
        """Return these examples, and then the others, each of a clip of its own."""
        outputs = {
            alone: concatenate([output, others.outputs[alone]])
            for alone, output in self.outputs.items()
        }
        return ClipOutputs(outputs, np.concatenate([self.labels, others.labels]))

    @property
    def held_out_rows(self) -> NDArray[np.bool_]:
        """Which examples [n] say how far known clips may be: those that training left out."""
        return np.ones(len(self.labels), bool) if self.held_out is None else self.held_out


@dataclass(frozen=True)
class FittedReference:
    """A reference, and the factor [n] by which the temperature of each known clip grows, from a fit
    to the other folds."""

    reference: FeatureReference
    factors: Float64Array


def fit_feature_references(
    card: Card, known: ClipOutputs, outliers: ClipOutputs
) -> dict[str | None, FittedReference]:
    """Fit a reference for all streams and for each alone, by known clips and by outliers.

    Returns none where `too_few` says why.
    """
    if too_few(card, known):
        return {}
    return {alone: _fit(card, known, outliers, alone) for alone in known.outputs}


def too_few(card: Card, known: ClipOutputs) -> str | None:
    """Return why these known clips are too few to fit the OOD score; None where they are not."""
    counts: list[tuple[str, int, int]]
    if known.clips is None:
        of_class = np.bincount(known.labels, minlength=len(card.labels))
        counts = [
            ("known clips", len(known.labels), FEWEST),
            ("known clips of the rarest class", int(of_class.min()), FEWEST_OF_CLASS),
        ]
    else:
        _, first = np.unique(known.clips, return_index=True)
        of_class = np.bincount(known.labels[first], minlength=len(card.labels))
        held_out = int(known.held_out_rows[first].sum())
        counts = [
            ("clips that chose the epoch", held_out, FEWEST_HELD_OUT),
            (f"clips of the rarest class {_DRAWN}", int(of_class.min()), FEWEST_CLIPS_OF_CLASS),
        ]
    for what, count, needed in counts:
        if count < needed:
            return f"too few {what}: {count}; {needed} are needed"
    return None


def ood_references(card: Card, fits: Mapping[str | None, FittedReference]) -> OODReferences | None:
    """Return the references of a card at its T; None without fits."""
    features = {
        "+".join(card.streams) if alone is None else alone: fit.reference
        for alone, fit in fits.items()
    }
    return OODReferences(steps=card.steps, features=features) if features else None


def _fit(
    card: Card, known: ClipOutputs, outliers: ClipOutputs, alone: str | None
) -> FittedReference:
    output, outlier_output = known.outputs[alone], outliers.outputs[alone]
    names = used_streams(output, card)
    held_out = known.held_out_rows
    towers: dict[str, TowerReference] = {}
    scores = np.zeros(len(known.labels))
    outlier_scores = np.zeros(len(outliers.labels))
    for name in names:
        fit = _Tower(known, output, outlier_output, name, outliers.is_outlier[name])
        log_odds, outlier_log_odds = fit.cross_fit()
        limit = round(float(np.quantile(log_odds[held_out], _KEPT)), 4)
        towers[name] = fit.fit().reference(limit)
        scores += np.logaddexp(0, log_odds - limit) / np.log(2)
        outlier_scores += np.logaddexp(0, outlier_log_odds - limit) / np.log(2)
    limit = round(float(np.quantile(scores[held_out], _KEPT)), 4)
    is_outlier = np.any([outliers.is_outlier[name] for name in names], axis=0)
    growth = _fit_growth(
        (output.logits.numpy()[held_out], scores[held_out] / limit, known.labels[held_out]),
        (outlier_output.logits.numpy()[is_outlier], outlier_scores[is_outlier] / limit),
    )
    factors = grown(torch.from_numpy(scores / limit), growth).numpy()
    return FittedReference(FeatureReference(towers=towers, limit=limit, growth=growth), factors)


@dataclass(frozen=True)
class _Tower:
    """What the regression of one tower is fitted to.

    `is_outlier`: whether each clip [n] of `outlier_output` is out of distribution in this stream.
    """

    clips: ClipOutputs
    output: Output
    outlier_output: Output
    name: str
    is_outlier: NDArray[np.bool_]

    def fit(self) -> OODRegression:
        """Fit to all clips."""
        others = self._features(self.outlier_output).of(self.is_outlier)
        return self._fit(self._features(self.output), self.clips.labels, others)

    def _fit(self, known: Features, labels: Int64Array, others: Features) -> OODRegression:
        return fit_ood_regression(known, labels, others, self.output.logits.shape[1])

    def cross_fit(self) -> tuple[Float64Array, Float64Array]:
        """Return the log odds of known clips and of outliers, from fits to the other folds."""
        labels = self.clips.labels
        known, others = self._features(self.output), self._features(self.outlier_output)
        log_odds, outlier_log_odds = np.empty(len(known.values)), np.empty(len(others.values))
        outlier_fold = np.arange(len(others.values)) % FOLDS
        for part, own in enumerate(stratified_folds(labels, self.clips.clips)):
            own_outliers = outlier_fold == part
            rest = others.of(~own_outliers & self.is_outlier)
            fit = self._fit(known.of(~own), labels[~own], rest)
            log_odds[own] = fit.log_odds(known.of(own))
            outlier_log_odds[own_outliers] = fit.log_odds(others.of(own_outliers))
        return log_odds, outlier_log_odds

    def _features(self, output: Output) -> Features:
        values = output.features[self.name].numpy().astype(np.float64)
        return Features(values, output.logits.argmax(1).numpy())


def _fit_growth(
    known: tuple[NDArray[np.float32], Float64Array, Int64Array],
    outliers: tuple[NDArray[np.float32], Float64Array],
) -> float:
    """Return the power with the lowest cross-entropy of known clips (logits, scores, classes)
    towards their classes, plus that of outliers (logits, scores) towards equal probabilities."""
    logits, scores, labels = known
    temperature = fit_temperature(logits, labels)
    rows = np.arange(len(labels))

    def scaled(logits: NDArray[np.float32], scores: Float64Array, growth: float) -> Float64Array:
        factors = temperature * np.maximum(scores, 1) ** growth
        return np.asarray(log_softmax(logits.astype(np.float64) / factors[:, None], axis=1))

    def cross_entropy(growth: float) -> float:
        of_known = scaled(logits, scores, growth)[rows, labels]
        return float(-of_known.mean() - scaled(*outliers, growth).mean())

    return float(min(_GROWTHS, key=cross_entropy))
