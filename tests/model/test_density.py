"""Beyond the domain of a card, temperatures grow: probabilities approach equal ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model.calibration import calibrated, tempered
from model.checkpoint import (
    Calibration,
    Card,
    FeatureReference,
    OODReferences,
    TowerReference,
    load,
    save,
)
from model.engine.outputs import concatenate, split_to_arrays
from model.network import Output
from model.out_of_distribution import ood_log_odds, ood_score
from tests.model.networks import lively
from tests.service import checkpoints

PLAIN = checkpoints.card()
CLASSES, SIZE = len(PLAIN.labels), PLAIN.config.embed_dim


def tower(limit: float = 1.0) -> TowerReference:
    """Whose log odds are the sum of the squared offsets from 0."""
    return TowerReference(
        means=((0.0,) * SIZE,) * CLASSES, linear=(0.0,) * SIZE, quadratic=(1.0,) * SIZE,
        bias=(0.0,) * CLASSES, limit=limit,
    )  # fmt: skip


def card(growth: float = 3.0, **changed: Any) -> Card:
    features = {
        "audio+visual": FeatureReference(
            towers={"audio": tower(), "visual": tower()}, limit=1.5, growth=growth
        ),
        "audio": FeatureReference(towers={"audio": tower()}, limit=1, growth=growth),
    }
    update = {
        "calibration": Calibration(temperature={4: 0.5}),
        "domain": OODReferences(steps=4, features=features),
    }
    return PLAIN.model_copy(update=update | changed)


def output_of(logits: list[float], audio: float, visual: float | None = None) -> Output:
    """An output whose features are `audio` and `visual` in all channels."""
    features = {"audio": audio} | ({} if visual is None else {"visual": visual})
    batch = torch.tensor([logits])
    return Output(
        batch,
        torch.zeros(CLASSES),
        stream_logits=dict.fromkeys(features, batch),
        features={name: torch.full((1, SIZE), value) for name, value in features.items()},
    )


LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=CLASSES, max_size=CLASSES)
#: Features of one channel, from known to far away.
VALUES = st.floats(0, 1e4)


def score(output: Output, of: Card) -> float:
    scores = ood_score(output, of, 4)
    assert scores is not None
    return float(scores[0])


@given(logits=LOGITS, audio=VALUES, visual=VALUES)
@settings(max_examples=30)
def test_the_order_of_the_classes_stays(logits: list[float], audio: float, visual: float) -> None:
    output = output_of(logits, audio, visual)
    order = calibrated(output, card(), 4)[0]
    for a in range(CLASSES):
        for b in range(CLASSES):
            if logits[a] > logits[b]:
                assert order[a] >= order[b]


@given(logits=LOGITS, audio=VALUES, further=VALUES)
@settings(max_examples=30)
def test_what_is_further_away_is_never_more_probable(
    logits: list[float], audio: float, further: float
) -> None:
    near, far = output_of(logits, audio, 0.0), output_of(logits, audio + further, 0.0)
    assert score(far, card()) >= score(near, card())
    highest = [calibrated(each, card(), 4).softmax(1).max() for each in (near, far)]
    assert highest[1] <= highest[0] + 1e-6


@given(logits=LOGITS, audio=VALUES, visual=VALUES)
@settings(max_examples=30)
def test_arrays_give_what_tensors_give(logits: list[float], audio: float, visual: float) -> None:
    output = output_of(logits, audio, visual)
    (arrays,) = split_to_arrays(output, 1)
    scores, result = ood_score(arrays, card(), 4), calibrated(arrays, card(), 4)
    assert isinstance(scores, np.ndarray)
    assert (result.dtype, scores.dtype) == (np.float32, np.float32)
    assert scores == pytest.approx([score(output, card())], rel=1e-5)
    expected = calibrated(output, card(), 4).numpy()
    assert result == pytest.approx(expected, rel=1e-4, abs=1e-6)


@given(logits=LOGITS)
@settings(max_examples=30)
def test_far_away_all_classes_are_equally_probable(logits: list[float]) -> None:
    for output in (
        output_of(logits, 1e6, 0.0),
        output_of(logits, 0.0, 1e6),
        output_of(logits, 1e6),
    ):
        probabilities = calibrated(output, card(), 4).softmax(1)
        assert torch.allclose(probabilities, torch.tensor(1 / CLASSES), atol=1e-4)


@given(logits=LOGITS)
@settings(max_examples=30)
def test_within_the_domain_nothing_changes(logits: list[float]) -> None:
    output = output_of(logits, 0.01, 0.01)
    assert score(output, card()) < 1
    assert torch.equal(calibrated(output, card(), 4), torch.tensor([logits]) / 0.5)


def test_one_stream_that_is_far_is_enough() -> None:
    near, far = output_of([1.0] * CLASSES, 0.0, 0.0), output_of([1.0] * CLASSES, 0.0, 9.0)
    assert score(near, card()) < 1 < score(far, card())


def test_the_temperature_grows_by_a_power_of_the_score() -> None:
    logits = [4.0, *([0.0] * (CLASSES - 1))]
    output = output_of(logits, 2.0)
    factor = score(output, card()) ** 3
    assert factor > 1
    assert calibrated(output, card(), 4)[0, 0] == pytest.approx(4 / 0.5 / factor)
    assert tempered(output, card(), 4)[0, 0] == pytest.approx(8)


@pytest.mark.parametrize(
    ("changed", "steps"),
    [({"domain": None}, 4), ({}, 8), ({"domain": OODReferences(steps=4)}, 4)],
    ids=["no domain", "another T", "no reference"],
)
def test_without_a_reference_it_does_not_grow(changed: dict[str, Any], steps: int) -> None:
    output = output_of([3.0] * CLASSES, 1e5, 1e5)
    assert torch.equal(calibrated(output, card(**changed), steps), output.logits / 0.5)


@pytest.mark.filterwarnings("error")
def test_arrays_grow_at_the_limits_of_a_card_as_tensors_do() -> None:
    output = output_of([3.0] * CLASSES, 1e5, 1e5)
    (arrays,) = split_to_arrays(output, 1)
    expected = calibrated(output, card(growth=100), 4).numpy()
    assert np.allclose(calibrated(arrays, card(growth=100), 4), expected, rtol=1e-6)


def test_a_card_without_growth_has_the_score_alone() -> None:
    output = output_of([3.0] * CLASSES, 100.0, 0.0)
    assert score(output, card(growth=0)) > 1
    assert torch.equal(calibrated(output, card(growth=0), 4), output.logits / 0.5)


def test_log_odds_are_linear_and_quadratic_in_the_offset_from_the_predicted_class() -> None:
    reference = TowerReference(
        means=((0, 0), (1, 2)), linear=(3, 0), quadratic=(0, 10), bias=(0.5, 100), limit=0
    )
    features = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    against = ood_log_odds(features, torch.tensor([0, 1]), reference)
    assert against.tolist() == [0.5 + 6 + 10, 100 + 3 + 10]


def test_a_card_is_read_as_it_was_written(tmp_path: Any) -> None:
    saved = save(tmp_path, lively(PLAIN.config), card())
    assert load(tmp_path)[1] == saved
    assert saved.domain == card().domain


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in tower().model_dump().items() if key != name}


@pytest.mark.parametrize(
    "features",
    [
        {"visual+audio": {"towers": {"audio": tower(), "visual": tower()}, "limit": 1}},
        {"audio": {"towers": {"visual": tower()}, "limit": 1}},
        {"audio": {"towers": {"audio": tower()}, "limit": 0}},
        {"audio": {"towers": {"audio": tower()}, "limit": 1, "growth": -1}},
        {"audio": {"towers": {"audio": without("bias") | {"bias": (0.0,)}}, "limit": 1}},
        {"audio": {"towers": {"audio": without("linear") | {"linear": (0.0,)}}, "limit": 1}},
        {"audio": {"towers": {"audio": without("means") | {"means": [(0.0,) * SIZE] * 2,
                                                          "bias": (0.0, 0.0)}}, "limit": 1}},
    ],
    ids=["order", "another tower", "no limit", "falls", "one bias", "one channel", "two classes"],
)  # fmt: skip
def test_a_reference_that_does_not_fit_is_refused(features: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="domain"):
        checkpoints.card(domain={"steps": 4, "features": features})


def test_scores_of_a_batch_are_those_of_its_clips() -> None:
    parts = [output_of([1.0] * CLASSES, value, 0.0) for value in (0.0, 1.0, 5.0)]
    scores = ood_score(concatenate(parts), card(), 4)
    assert scores is not None
    assert np.allclose(scores, [score(part, card()) for part in parts])
