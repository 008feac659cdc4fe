"""The embedded checkpoints, as a newcomer meets it: clips of this clone, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from model import checkpoint
from service.default_checkpoint import WEIGHTS
from tests.service.running_server import running

pytestmark = pytest.mark.slow

CLIPS = Path(__file__).parent / "data" / "clips"
FOLDER = WEIGHTS / "avdigits"
#: The folders of all checkpoints of this clone.
SHIPPED = [card.parent for card in sorted(WEIGHTS.glob("*/card.json"))]


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with running(WEIGHTS, device="cpu") as client:
        yield client


def label(client: httpx.Client, **files: Path) -> str:
    """The label of the answer to these files, by field."""
    opened = {name: (path.name, path.read_bytes()) for name, path in files.items()}
    response = client.post("/v1/classify", files=opened, data={"attention": "none"})
    assert response.status_code == 200, response.text
    return str(response.json()["prediction"]["label"])


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_at_least_nine_of_the_ten_clips_of_this_clone_are_right(
    client: httpx.Client, kind: str
) -> None:
    answers = [label(client, clip=CLIPS / f"digit-{digit}.{kind}") for digit in range(10)]
    right = sum(answer == str(digit) for digit, answer in enumerate(answers))
    assert right >= 9, answers


def test_each_stream_alone_is_right_more_often_than_not(client: httpx.Client) -> None:
    for field in ("video", "audio"):
        answers = [label(client, **{field: CLIPS / f"digit-{d}.mp4"}) for d in range(10)]
        assert sum(answer == str(digit) for digit, answer in enumerate(answers)) >= 8, answers


def test_the_map_on_the_picture_points_at_the_digit(client: httpx.Client) -> None:
    """The seven of this clone stands right of the middle (tests/data/make_clips.py)."""
    clip = CLIPS / "digit-7.webm"
    answer = client.post("/v1/classify", files={"clip": clip.read_bytes()}).json()
    spatial = answer["attention"]["visual"]["spatial"]
    edges, values = spatial["column_edges"], spatial["values"]
    middles = [(left + right) / 2 for left, right in pairwise(edges)]
    mass = [sum(row[column] for row in values) for column in range(len(middles))]
    right_of_middle = sum(m for x, m in zip(middles, mass, strict=True) if x > 160)
    assert right_of_middle > 0.6


def test_the_card_says_what_was_measured_and_on_what() -> None:
    _, card = checkpoint.load(FOLDER)
    measured = {m.what: m for m in card.accuracy}
    both, picture, sound = (
        measured[f"accuracy, {streams}"]
        for streams in ("both streams", "picture alone", "sound alone")
    )
    assert both.value >= 0.98
    assert picture.value >= 0.96
    assert sound.value >= 0.80
    assert both.value > max(picture.value, sound.value)
    for measurement in (both, picture, sound):
        assert measurement.n == 1000
        assert measurement.low is not None
        assert measurement.high is not None
        assert measurement.low < measurement.value < measurement.high
    for noisy in ("sound", "picture"):
        fused = measured[f"accuracy, both streams, noise on the {noisy}"].value
        assert fused > measured[f"accuracy, {noisy} alone, noise on it"].value + 0.03
    assert measured["attention: mass over share"].value > 1
    assert all(m.conditions for m in card.accuracy)
    assert {"CC BY-SA 3.0", "CC BY-SA 4.0"} <= {source.licence for source in card.data}
    assert card.training is not None
    assert card.training.command.startswith("scmrl train avdigits")


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_checkpoint_is_small(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 20_000_000


def test_the_hand_of_this_clone_is_read_by_handsigns(client: httpx.Client) -> None:
    clip = (CLIPS / "hand-8.mp4").read_bytes()
    url = "/v1/models/handsigns/classify"
    answer = client.post(url, files={"clip": clip}).json()
    assert answer["model"]["name"] == "handsigns"
    assert answer["prediction"]["label"] == "8"
    assert set(answer["attention"]) == {"audio", "visual"}
    alone = client.post(url, files={"video": clip}, data={"attention": "none"}).json()
    assert alone["streams"]["audio"]["used"] is False
    assert alone["prediction"]["label"] == "8"


def test_the_card_of_handsigns_says_what_was_measured_and_on_what() -> None:
    _, card = checkpoint.load(WEIGHTS / "handsigns")
    measured = {m.what: m for m in card.accuracy}
    for streams in ("both streams", "picture alone", "sound alone"):
        for part in ("", ", plain background", ", busy background"):
            m = measured[f"accuracy, {streams}{part}"]
            assert m.low is not None
            assert m.high is not None
            assert m.low < m.value < m.high
            assert m.n >= 200
        assert f"accuracy, {streams}, int8" in measured
    assert "expected calibration error" in measured
    assert "accuracy, both streams, T = 8" in measured
    assert "accuracy, both streams, noise on the picture" in measured
    assert card.calibration is not None
    assert card.domain is not None
    assert card.steps in card.calibration.temperature
    sources = {source.name: source.licence for source in card.data}
    assert sources["Sign Language Digits Dataset"] == "Apache-2.0"
    assert sources["Free Spoken Digit Dataset"] == "CC BY-SA 4.0"
    assert card.training is not None
    assert card.training.command.startswith("scmrl train handsigns")
    assert "scmrl train handsigns" in card.training.notes["init_from"]


def test_a_term_is_what_was_in_its_stream(client: httpx.Client) -> None:
    """What docs/http-api.md says of alpha 0: a tower receives nothing from the other stream."""
    clips = [(CLIPS / f"digit-{digit}.mp4").read_bytes() for digit in range(10)]

    def term(stream: str, sound: int, picture: int) -> NDArray[np.float64]:
        files = {"audio": clips[sound], "video": clips[picture]}
        answer = client.post("/v1/classify", files=files, data={"attention": "none"}).json()
        return np.array(list(answer["contributions"][stream].values()))

    moved: dict[str, list[float]] = {"audio": [], "visual": []}
    for digit in range(10):
        other = (digit + 1) % 10
        for stream, pair in (("visual", (other, digit)), ("audio", (digit, other))):
            own = term(stream, digit, digit)
            change = np.linalg.norm(term(stream, *pair) - own) / np.linalg.norm(own)
            moved[stream].append(float(change))
    assert max(moved["visual"]) < 1e-3
    assert max(moved["audio"]) < 1e-3
