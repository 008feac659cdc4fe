"""Features of the towers separate known clips from those of no class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.calibration import calibrated
from model.checkpoint import Calibration, Card
from model.network import Output
from model.out_of_distribution import ood_score
from model.training.out_of_distribution.features import (
    ClipOutputs,
    fit_feature_references,
    ood_references,
    too_few,
)
from model.training.out_of_distribution.folds import stratified_folds
from model.training.out_of_distribution.logistic_regression import Features, fit_ood_regression
from tests.service import checkpoints

PLAIN = checkpoints.card()
CLASSES, SIZE = len(PLAIN.labels), PLAIN.config.embed_dim
STREAMS = ("audio", "visual")
#: Mean of each class's features.
CENTRES = np.random.default_rng(0).uniform(0, 2, (CLASSES, SIZE))
#: Offset of the features of clips of no class.
AWAY = np.where(np.arange(SIZE) < 4, 1.5, 0)


def clips(count: int, seed: int, outliers: tuple[str, ...] = ()) -> ClipOutputs:
    """Clips whose content is known, but for that of the streams `outliers`."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    logits = torch.tensor(8 * np.eye(CLASSES)[labels]).float()
    features = {}
    for name in STREAMS:
        values = CENTRES[labels] + random.normal(0, 0.3, (count, SIZE))
        features[name] = torch.tensor(values + AWAY * (name in outliers)).float()
    outputs: dict[str | None, Output] = {
        alone: Output(
            logits,
            torch.zeros(CLASSES),
            stream_logits=dict.fromkeys(names, logits),
            features={name: features[name] for name in names},
        )
        for alone, names in ((None, STREAMS), ("audio", ("audio",)), ("visual", ("visual",)))
    }
    return ClipOutputs(
        outputs, labels, {name: np.full(count, name in outliers) for name in STREAMS}
    )


def joined(*parts: ClipOutputs) -> ClipOutputs:
    together = parts[0]
    for part in parts[1:]:
        together = together.joined(part)
    is_outlier = {
        name: np.concatenate([part.is_outlier[name] for part in parts]) for name in STREAMS
    }
    return ClipOutputs(together.outputs, together.labels, is_outlier)


@pytest.fixture(scope="module")
def card() -> Card:
    others = joined(clips(100, 1, STREAMS), clips(50, 2, ("audio",)), clips(50, 3, ("visual",)))
    fits = fit_feature_references(PLAIN, clips(300, 0), others)
    assert {len(fit.factors) for fit in fits.values()} == {300}
    calibration = Calibration(temperature={4: 0.5})
    return PLAIN.model_copy(
        update={"domain": ood_references(PLAIN, fits), "calibration": calibration}
    )


def scores(card: Card, output: Output) -> np.ndarray:
    values = ood_score(output, card, 4)
    assert values is not None
    return np.asarray(values)


def test_nearly_all_known_clips_are_within_the_limit(card: Card) -> None:
    for output in clips(500, 7).outputs.values():
        assert 0.93 <= (scores(card, output) <= 1).mean() <= 0.995


@pytest.mark.parametrize("outliers", [STREAMS, ("audio",), ("visual",)])
def test_a_stream_of_no_class_is_beyond_it(card: Card, outliers: tuple[str, ...]) -> None:
    for alone, output in clips(100, 8, outliers).outputs.items():
        if alone is None or alone in outliers:
            assert (scores(card, output) > 1).mean() > 0.95
            assert (calibrated(output, card, 4).softmax(1).amax(1) > 0.5).float().mean() < 0.05
        else:
            assert (scores(card, output) <= 1).mean() > 0.9


def test_the_temperature_grows_for_all_choices_of_streams(card: Card) -> None:
    assert card.domain is not None
    assert all(reference.growth > 0 for reference in card.domain.features.values())


def test_inseparable_clips_do_not_flatten_probabilities() -> None:
    same = clips(200, 5)
    same = ClipOutputs(same.outputs, same.labels, {name: np.full(200, True) for name in STREAMS})
    fits = fit_feature_references(PLAIN, clips(300, 0), same)
    assert all((fit.factors == 1).mean() > 0.9 for fit in fits.values())


@pytest.mark.parametrize("count", [190, 20])
def test_too_few_known_clips_give_no_reference(count: int) -> None:
    assert fit_feature_references(PLAIN, clips(count, 0), clips(100, 1, STREAMS)) == {}
    assert ood_references(PLAIN, {}) is None


def test_a_squared_offset_never_counts_for_a_clip() -> None:
    known, others = (
        Features(each.outputs["audio"].features["audio"].double().numpy(), each.labels)
        for each in (clips(300, 0), clips(100, 1, STREAMS))
    )
    evidence = fit_ood_regression(known, known.predicted, others, CLASSES)
    assert evidence.quadratic.min() >= 0
    assert evidence.log_odds(others).mean() > evidence.log_odds(known).mean() + 2
    assert np.allclose(evidence.reference(1.0).means, evidence.means, rtol=1e-3, atol=1e-6)


def several_of_each(count: int, held_out: int, examples: int = 12) -> ClipOutputs:
    """Examples of `count` clips, of which training left the first `held_out` out. Examples of a
    clip are alike; those of clips that were trained on are at the centre of their class."""
    known = clips(count * examples, 0)
    numbers = np.arange(count * examples) % count
    labels = numbers % CLASSES
    random = np.random.default_rng(5)
    own = {name: random.normal(0, 0.3, (count, SIZE)) for name in STREAMS}
    for output in known.outputs.values():
        for name, values in output.features.items():
            offset = own[name][numbers] * (numbers < held_out)[:, None]
            noise = random.normal(0, 0.05, values.shape)
            values[:] = torch.tensor(CENTRES[labels] + offset + noise).float()
        output.logits[:] = torch.tensor(8 * np.eye(CLASSES)[labels]).float()
    return replace(known, labels=labels, clips=numbers, held_out=numbers < held_out)


def test_a_small_folder_gets_a_limit_that_its_held_out_clips_keep() -> None:
    """Those that were trained on would have a limit that no other clip keeps."""
    others = joined(clips(100, 1, STREAMS), clips(50, 2, ("audio",)), clips(50, 3, ("visual",)))
    known = several_of_each(4 * CLASSES, CLASSES)
    assert too_few(PLAIN, known) is None
    fits = fit_feature_references(PLAIN, known, others)
    card = PLAIN.model_copy(update={"domain": ood_references(PLAIN, fits)})
    for output in clips(300, 7).outputs.values():
        assert (scores(card, output) <= 1).mean() > 0.85
    for output in clips(100, 8, STREAMS).outputs.values():
        assert (scores(card, output) > 1).mean() > 0.95
    tight = fit_feature_references(PLAIN, replace(known, held_out=None), others)
    assert tight[None].reference.towers["audio"].limit < fits[None].reference.towers["audio"].limit


@pytest.mark.parametrize(
    ("count", "held_out", "reason"),
    [
        (2 * CLASSES, 3, "too few clips that chose the epoch: 3; 4 are needed"),
        (
            2 * CLASSES - 1,
            4,
            "too few clips of the rarest class among those drawn (--examples): 1; 2 are needed",
        ),
    ],
)
def test_a_folder_that_is_too_small_says_why(count: int, held_out: int, reason: str) -> None:
    known = several_of_each(count, held_out)
    assert too_few(PLAIN, known) == reason
    assert fit_feature_references(PLAIN, known, clips(50, 1, STREAMS)) == {}


def test_no_fold_has_examples_of_a_clip_that_another_has() -> None:
    numbers = np.repeat(np.arange(23), 4)
    labels = numbers % 3
    folds = list(stratified_folds(labels, numbers))
    assert (np.sum(folds, axis=0) == 1).all()
    for fold in folds:
        assert not set(numbers[fold]) & set(numbers[~fold])
        assert set(labels[fold]) == {0, 1, 2}
