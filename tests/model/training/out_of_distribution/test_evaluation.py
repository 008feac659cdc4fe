"""Answers to clips of no class are measured as the service gives them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch

from model import checkpoint
from model.checkpoint import Calibration, LogitReference, OODReferences
from model.media.events.types import CameraEvents, ChannelEvents
from model.media.reader import read_clip
from model.training.avdigits.task import AVDigits
from model.training.drones.task import Drones
from model.training.evaluator import DecodedClip, Evaluator
from model.training.ndigits_events.task import NDigitsEvents
from model.training.options import TrainOptions
from model.training.out_of_distribution.evaluation import auroc, measure_ood_detection
from model.training.out_of_distribution.made_clips import draw_sets
from model.training.speech import voices
from model.training.task import DataError, LabelledClip
from model.training.training_card import make_card
from tests.conftest import ROOT
from tests.model.networks import lively

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.slow]

CARD = make_card(TrainOptions.of(AVDigits(), Path("data"), embed_dim=16, steps=2), 0)
#: Sets of clips that need no files; words are spoken by espeak-ng.
SETS = (
    "white noise",
    "blank pages",
    *(("words that are no digits, and blank pages",) if voices.available() else ()),
)
EYE = tuple(tuple(float(i == j) for j in range(20)) for i in range(20))


def saved(folder: Path, temperature: float, limit: float | None) -> Evaluator:
    """A checkpoint with random weights, this temperature, and a domain with this limit."""
    domain = None
    if limit is not None:
        reference = LogitReference(means=EYE[:10], precision=EYE, limit=limit)
        domain = OODReferences(steps=2, references={"audio+visual": reference})
    calibration = Calibration(temperature={2: temperature})
    changed = CARD.model_copy(update={"calibration": calibration, "domain": domain})
    checkpoint.save(folder, lively(CARD.config), changed)
    return Evaluator(folder, "cpu")


@pytest.fixture(scope="module")
def clips() -> list[DecodedClip]:
    data = [(ROOT / f"tests/data/clips/digit-{digit}.mp4").read_bytes() for digit in range(3)]
    return [
        DecodedClip(LabelledClip(each, digit), read_clip(each, 2))
        for digit, each in enumerate(data)
    ]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    folder = tmp_path / "foreign"
    folder.mkdir()
    random = np.random.default_rng(0)
    soundfile.write(folder / "a.wav", random.normal(0, 0.1, 30_000), 8000)
    cv2.imwrite(str(folder / "a.png"), random.integers(0, 256, (60, 80, 3), np.uint8))
    return folder


@pytest.mark.parametrize(
    ("temperature", "limit", "answered", "accepted"),
    [(0.01, 1e6, 1.0, 1.0), (0.01, 1e-6, 1.0, 0.0), (100.0, 1e6, 0.0, 0.0)],
)
def test_answers_are_counted_by_probability_and_score(
    tmp_path: Path, clips: list[DecodedClip], foreign: Path,
    temperature: float, limit: float, answered: float, accepted: float,
) -> None:  # fmt: skip
    evaluator = saved(tmp_path / "checkpoint", temperature, limit)
    measured = {m.what: m for m in measure_ood_detection(evaluator, clips, foreign, 7)}
    for name in (*SETS, "foreign clips (foreign)"):
        assert measured[f"{name} answered above 0.5"].value == answered
        assert measured[f"{name} answered above 0.5, abstain_beyond=1"].value == accepted
        assert measured[f"{name} answered above 0.5"].n == len(clips)
        assert 0 <= measured[f"out-of-domain score, AUROC, {name}"].value <= 1
    assert measured["test clips answered above 0.5, abstain_beyond=1"].value == accepted


def test_without_a_domain_there_is_no_score(tmp_path: Path, clips: list[DecodedClip]) -> None:
    evaluator = saved(tmp_path / "checkpoint", 1.0, None)
    measured = [m.what for m in measure_ood_detection(evaluator, clips, None, 7)]
    assert measured == [f"{name} answered above 0.5" for name in SETS]


@pytest.mark.parametrize(("predicted", "share"), [("other", 1.0), ("drone", 0.0)])
def test_a_label_for_everything_else_is_counted(
    tmp_path: Path, clips: list[DecodedClip], predicted: str, share: float
) -> None:
    card = make_card(TrainOptions.of(Drones(), Path("data"), embed_dim=16, steps=2), 0)
    network = lively(card.config)
    with torch.no_grad():
        network.head.bias[card.labels.index(predicted)] += 1e3
    checkpoint.save(tmp_path / "checkpoint", network, card)
    evaluator = Evaluator(tmp_path / "checkpoint", "cpu")
    measured = {m.what: m.value for m in measure_ood_detection(evaluator, clips, None, 7)}
    names = [name.replace("words that are no digits", "other words") for name in SETS]
    assert [measured[f"{name} answered 'other'"] for name in names] == [share] * len(SETS)


def test_a_checkpoint_of_events_is_measured_on_random_events(tmp_path: Path) -> None:
    card = make_card(TrainOptions.of(NDigitsEvents(), Path("data"), embed_dim=16, steps=2), 0)
    sets = dict(draw_sets(4, card, None, 7))
    words = "words that are no digits, and random events"
    assert set(sets) == {"random events", *([words] if voices.available() else [])}
    for clips in sets.values():
        camera, cochlea = clips[0].events["visual"], clips[0].events["audio"]
        assert isinstance(camera, CameraEvents)
        assert isinstance(cochlea, ChannelEvents)
        height, width = camera.sensor or (0, 0)
        assert 0 <= camera.y.min() <= camera.y.max() < height
        assert 0 <= camera.x.min() <= camera.x.max() < width
        assert 0 <= cochlea.channel.min() <= cochlea.channel.max() < card.streams["audio"].bands
    network = lively(card.config)
    for predicted, share in ((1e3, 1.0), (0.0, 0.0)):
        with torch.no_grad():
            network.head.weight.zero_()
            network.head.bias.zero_()
            network.head.bias[3] = predicted
        checkpoint.save(tmp_path / str(share), network, card)
        evaluator = Evaluator(tmp_path / str(share), "cpu")
        clips = [DecodedClip(LabelledClip(b"", 0), clip) for clip in sets["random events"]]
        measured = {m.what: m for m in measure_ood_detection(evaluator, clips, None, 7)}
        assert set(measured) == {f"{name} answered above 0.5" for name in sets}
        assert {each.value for each in measured.values()} == {share}


def test_one_stream_alone_is_measured_on_what_it_has(foreign: Path) -> None:
    sets = {
        stream: [
            name
            for name, _ in draw_sets(
                2, CARD.model_copy(update={"streams": {stream: spec}}), foreign, 7
            )
        ]
        for stream, spec in CARD.streams.items()
    }
    words = ["words that are no digits"] if voices.available() else []
    assert sets["audio"] == ["white noise", *words, "foreign clips (foreign)"]
    assert sets["visual"] == ["white noise", "blank pages", "foreign clips (foreign)"]
    (foreign / "a.wav").unlink()
    one = CARD.model_copy(update={"streams": {"visual": CARD.streams["visual"]}})
    (*_, (_, clips)) = draw_sets(2, one, foreign, 7)
    assert all(clip.sound is None and clip.pictures is not None for clip in clips)


def test_a_folder_without_sounds_is_refused(tmp_path: Path, clips: list[DecodedClip]) -> None:
    evaluator = saved(tmp_path / "checkpoint", 1.0, None)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="0 sounds and 0 pictures"):
        list(measure_ood_detection(evaluator, clips, empty, 7))


def test_the_area_is_the_chance_that_another_clip_scores_higher() -> None:
    assert auroc(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1
    assert auroc(np.array([1.0, 3.0]), np.array([2.0, 2.0])) == 0.5
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
