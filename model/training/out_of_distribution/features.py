"""Fit the domain of a checkpoint by its towers' features, and how fast probabilities become equal
beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax

from model.calibration import grown
from model.checkpoint import Card, Domain, FeatureReference, TowerReference
from model.engine.outputs import concatenate
from model.network import Output
from model.out_of_distribution import used_streams
from model.training.out_of_distribution.logistic_regression import (
    Evidence,
    Features,
    Floats,
    Labels,
    fit_evidence,
)
from model.training.temperature import fit_temperature

#: Share of known clips within the limit.
_KEPT = 0.97
#: Fewest known clips, and fewest of each class.
FEWEST, FEWEST_OF_CLASS = 200, 10
#: Parts of the clips, of which each is measured by a fit of the others.
_FOLDS = 5
#: Powers of the score that are tried.
_GROWTHS = np.linspace(0, 8, 81)


@dataclass(frozen=True)
class Clips:
    """Outputs of clips, with all streams (under None) or with one alone, and their classes [n].

    `foreign`: by stream, whether its content [n] is of no class.
    """

    outputs: Mapping[str | None, Output]
    labels: Labels
    foreign: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def joined(self, others: Clips) -> Clips:
        """Return these clips, and then the others."""
        outputs = {
            alone: concatenate([output, others.outputs[alone]])
            for alone, output in self.outputs.items()
        }
        return Clips(outputs, np.concatenate([self.labels, others.labels]))


@dataclass(frozen=True)
class Fitted:
    """A reference, and the factor [n] by which the temperature of each known clip grows, by the fit
    of a fold without it."""

    reference: FeatureReference
    factors: Floats


def fit_features(card: Card, known: Clips, others: Clips) -> dict[str | None, Fitted]:
    """Fit a reference for all streams and for each alone, by known clips and by those of no class.

    Empty where there are too few: 200 known ones are needed, and 10 of each class.
    """
    of_class = np.bincount(known.labels, minlength=len(card.labels))
    if len(known.labels) < FEWEST or of_class.min() < FEWEST_OF_CLASS:
        return {}
    return {alone: _fit(card, known, others, alone) for alone in known.outputs}


def as_domain(card: Card, fits: Mapping[str | None, Fitted]) -> Domain | None:
    """Return the domain of a card at its T; None without fits."""
    features = {
        "+".join(card.streams) if alone is None else alone: fit.reference
        for alone, fit in fits.items()
    }
    return Domain(steps=card.steps, features=features) if features else None


def _fit(card: Card, known: Clips, others: Clips, alone: str | None) -> Fitted:
    output, foreign = known.outputs[alone], others.outputs[alone]
    names = used_streams(output, card)
    towers: dict[str, TowerReference] = {}
    scores = np.zeros(len(known.labels))
    foreign_scores = np.zeros(len(others.labels))
    for name in names:
        fit = _Tower(output, foreign, name, known.labels, others.foreign[name], len(card.labels))
        against, against_foreign = fit.cross_fit()
        limit = round(float(np.quantile(against, _KEPT)), 4)
        towers[name] = fit.fit().reference(limit)
        scores += np.logaddexp(0, against - limit) / np.log(2)
        foreign_scores += np.logaddexp(0, against_foreign - limit) / np.log(2)
    limit = round(float(np.quantile(scores, _KEPT)), 4)
    is_foreign = np.any([others.foreign[name] for name in names], axis=0)
    growth = _fit_growth(
        (output.logits.numpy(), scores / limit, known.labels),
        (foreign.logits.numpy()[is_foreign], foreign_scores[is_foreign] / limit),
    )
    factors = grown(torch.from_numpy(scores / limit), growth).numpy()
    return Fitted(FeatureReference(towers=towers, limit=limit, growth=growth), factors)


@dataclass(frozen=True)
class _Tower:
    """What one tower's evidence is fitted on. `is_foreign`: of the clips of `foreign`, those whose
    content of this stream is of no class."""

    output: Output
    foreign: Output
    name: str
    labels: Labels
    is_foreign: NDArray[np.bool_]
    classes: int

    def fit(self) -> Evidence:
        """Fit by all clips."""
        others = self._features(self.foreign).of(self.is_foreign)
        return fit_evidence(self._features(self.output), self.labels, others, self.classes)

    def cross_fit(self) -> tuple[Floats, Floats]:
        """Return the evidence against known and foreign clips, by fits of other folds."""
        known, others = self._features(self.output), self._features(self.foreign)
        against, against_foreign = np.empty(len(known.values)), np.empty(len(others.values))
        fold_of_foreign = np.arange(len(others.values)) % _FOLDS
        for part, own in enumerate(_folds(self.labels)):
            own_foreign = fold_of_foreign == part
            rest = others.of(~own_foreign & self.is_foreign)
            fit = fit_evidence(known.of(~own), self.labels[~own], rest, self.classes)
            against[own] = fit.against(known.of(own))
            against_foreign[own_foreign] = fit.against(others.of(own_foreign))
        return against, against_foreign

    def _features(self, output: Output) -> Features:
        values = output.features[self.name].numpy().astype(np.float64)
        return Features(values, output.logits.argmax(1).numpy())


def _folds(labels: Labels) -> Iterator[NDArray[np.bool_]]:
    """Yield the clips of each fold, as booleans [n]; each class is in each fold."""
    fold = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        fold[rows] = np.arange(len(rows)) % _FOLDS
    yield from (fold == part for part in range(_FOLDS))


def _fit_growth(
    known: tuple[NDArray[np.float32], Floats, Labels], foreign: tuple[NDArray[np.float32], Floats]
) -> float:
    """Return the power with the lowest cross-entropy of known clips (logits, scores, classes)
    towards their classes, plus that of foreign ones towards equal probabilities."""
    logits, scores, labels = known
    temperature = fit_temperature(logits, labels)
    rows = np.arange(len(labels))

    def scaled(logits: NDArray[np.float32], scores: Floats, growth: float) -> Floats:
        factors = temperature * np.maximum(scores, 1) ** growth
        return np.asarray(log_softmax(logits.astype(np.float64) / factors[:, None], axis=1))

    def cross_entropy(growth: float) -> float:
        of_known = scaled(logits, scores, growth)[rows, labels]
        return float(-of_known.mean() - scaled(*foreign, growth).mean())

    return float(min(_GROWTHS, key=cross_entropy))
