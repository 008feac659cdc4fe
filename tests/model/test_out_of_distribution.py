"""The out-of-domain score grows with the distance from known clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from model.checkpoint import Card, LogitReference, load, save
from model.engine.outputs import split_to_arrays
from model.network import Output
from model.out_of_distribution import joined_logits, mahalanobis_distance, ood_score
from model.training.out_of_distribution.logits import fit_logit_references
from tests.model.networks import lively
from tests.service import checkpoints

CLASSES = 10


def outputs(count: int, seed: int, shift: float = 0.0) -> tuple[Output, np.ndarray]:
    """Outputs of `count` clips, whose terms are normal around their class, and the classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    spread = random.normal(0, 0.5, (2, count, CLASSES)) * np.linspace(0.5, 2, CLASSES)
    centres = 4 * np.eye(CLASSES)[labels]
    audio, visual = (torch.tensor(centres + each + shift).float() for each in spread)
    bias = torch.zeros(CLASSES)
    return Output(audio + visual, bias, stream_logits={"audio": audio, "visual": visual}), labels


@pytest.fixture(scope="module")
def card() -> Card:
    output, labels = outputs(400, 0)
    alone = Output(
        output.stream_logits["audio"],
        output.bias,
        stream_logits={"audio": output.stream_logits["audio"]},
    )
    plain = checkpoints.card()
    domain = fit_logit_references(plain, [output, alone], labels)
    assert domain is not None
    return plain.model_copy(update={"domain": domain})


def scores(card: Card, output: Output) -> list[float]:
    of_clips = ood_score(output, card, 4)
    assert of_clips is not None
    return list(of_clips.tolist())


def test_arrays_give_what_tensors_give(card: Card) -> None:
    output, _ = outputs(20, 3)
    of_clips = [ood_score(clip, card, 4) for clip in split_to_arrays(output, 20)]
    assert all(isinstance(score, np.ndarray) for score in of_clips)
    assert np.concatenate(of_clips) == pytest.approx(scores(card, output), rel=1e-9)


def test_98_of_100_known_clips_are_within_the_limit(card: Card) -> None:
    within = np.mean(np.array(scores(card, outputs(1000, 1)[0])) <= 1)
    assert 0.95 <= within <= 0.995


def test_other_clips_are_beyond_it(card: Card) -> None:
    assert min(scores(card, outputs(50, 2, shift=8.0)[0])) > 1
    near, far = (np.mean(scores(card, outputs(50, 2, shift)[0])) for shift in (1.0, 3.0))
    assert near < far


def test_the_distance_is_mahalanobis() -> None:
    reference = LogitReference(means=((0, 0), (1, 0)), precision=((4, 0), (0, 1)), limit=2)
    values = torch.tensor([[1.0, 0.0], [1.0, 2.0]]).double()
    assert mahalanobis_distance(values, torch.tensor([0, 1]), reference).tolist() == [2.0, 2.0]


def test_there_is_no_score_without_a_reference(card: Card) -> None:
    output = outputs(10, 0)[0]
    assert ood_score(output, card, 8) is None
    assert ood_score(output, checkpoints.card(), 4) is None
    visual = Output(
        output.logits, output.bias, stream_logits={"visual": output.stream_logits["visual"]}
    )
    assert ood_score(visual, card, 4) is None


def test_terms_are_in_the_order_of_the_streams() -> None:
    output = outputs(3, 0)[0]
    joined = joined_logits(output, ["audio", "visual"])
    assert torch.equal(joined[:, :CLASSES], output.stream_logits["audio"].double())


@pytest.mark.parametrize("count", [100, 90])
def test_too_few_clips_give_no_domain(count: int) -> None:
    output, labels = outputs(count, 0)
    assert fit_logit_references(checkpoints.card(), [output], labels) is None


def test_a_card_with_a_domain_is_saved_with_a_row_a_line(card: Card, tmp_path: Any) -> None:
    saved = save(tmp_path, lively(card.config), card)
    assert load(tmp_path)[1] == saved
    assert saved.domain == card.domain
    lines = (tmp_path / "card.json").read_text().splitlines()
    assert len(lines) < 250


@pytest.mark.parametrize(
    "references",
    [
        {"visual+audio": {"means": [[0] * 20] * 10, "precision": [[0] * 20] * 20, "limit": 1}},
        {"tactile": {"means": [[0] * 10] * 10, "precision": [[0] * 10] * 10, "limit": 1}},
        {"audio": {"means": [[0] * 10] * 9, "precision": [[0] * 10] * 10, "limit": 1}},
        {"audio": {"means": [[0] * 10] * 10, "precision": [[0] * 9] * 10, "limit": 1}},
        {"audio": {"means": [[0] * 10] * 10, "precision": [[0] * 10] * 10, "limit": 0}},
    ],
    ids=["order", "no stream", "a class is missing", "a number is missing", "no limit"],
)
def test_a_reference_that_does_not_fit_is_refused(references: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="domain"):
        checkpoints.card(domain={"steps": 4, "references": references})
