"""The embedded checkpoint drones answers a movie of this clone, and its card is complete.

The movie is of Drone-detection-dataset (CC0 1.0): a window of a video that training never saw,
with a recording of another drone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from model import checkpoint
from model.preprocess.profiles import PROFILES
from service.default_checkpoint import WEIGHTS
from tests.service.running_server import running

pytestmark = pytest.mark.slow

CLIP = Path(__file__).parent / "data" / "clips" / "drone.mp4"
FOLDER = WEIGHTS / "drones"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with running(WEIGHTS, device="cpu") as client:
        yield client


def test_the_drone_of_this_clone_is_known_by_each_stream(client: httpx.Client) -> None:
    content = CLIP.read_bytes()
    for fields, used in (
        (("clip",), {"audio", "visual"}),
        (("video",), {"visual"}),
        (("audio",), {"audio"}),
    ):
        files = dict.fromkeys(fields, ("drone.mp4", content))
        response = client.post("/v1/models/drones/classify", files=files)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["model"]["name"] == "drones"
        assert answer["prediction"]["label"] == "drone", fields
        assert {name for name, each in answer["streams"].items() if each["used"]} == used
    assert client.get("/v1/models/drones").json()["labels"] == ["drone", "helicopter", "other"]


def test_the_map_of_the_picture_lies_on_the_middle_of_the_window(client: httpx.Client) -> None:
    """The picture is the middle half of the frame: edges are in its pixels."""
    files = {"clip": ("drone.mp4", CLIP.read_bytes())}
    answer = client.post("/v1/models/drones/classify", files=files).json()
    spatial = answer["attention"]["visual"]["spatial"]
    assert len(spatial["values"]) == len(spatial["values"][0]) == 4
    edges = spatial["column_edges"]
    assert edges[0] == pytest.approx(256 / 4, abs=2)
    assert edges[-1] == pytest.approx(256 * 3 / 4, abs=2)


def test_the_card_says_what_was_measured_and_on_what() -> None:
    _, card = checkpoint.load(FOLDER)
    assert card.streams == PROFILES["drones"]
    measured = {m.what: m for m in card.accuracy}
    both, picture, sound = (
        measured[f"accuracy, {measure}"]
        for measure in ("both streams", "picture alone", "sound alone")
    )
    assert both.value > max(picture.value, sound.value)
    for measurement in (both, picture, sound):
        assert measurement.low is not None
        assert measurement.high is not None
        assert measurement.low < measurement.value < measurement.high
    recalls = [measured[f"recall, {label}"].value for label in card.labels]
    assert measured["recall, mean of the classes"].value == pytest.approx(sum(recalls) / 3)
    for measure in (
        "expected calibration error",
        "accuracy, both streams, int8",
        "accuracy, both streams, noise on the sound",
        "accuracy, both streams, T = 4",
    ):
        assert measure in measured
    assert all(m.conditions for m in card.accuracy)
    assert card.calibration is not None
    # Its own data, and those of avdigits, whose weights it started from.
    assert {source.licence for source in card.data} >= {"CC0 1.0", "CC BY-SA 3.0", "CC BY-SA 4.0"}
    assert card.training is not None
    assert card.training.command.startswith("scmrl train drones")
    assert "scmrl train" in card.training.notes["init_from"]


def test_the_checkpoint_is_small() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20_000_000
