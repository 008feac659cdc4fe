"""What a client gets for a clip, over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from model.checkpoint import Calibration, LogitReference, OODReferences
from model.media.reader import read_clip
from tests.service import checkpoints
from tests.service.checkpoints import LABELS, STEPS
from tests.service.conftest import CLIPS
from tests.service.media_files import png, tone, wav, without_sound
from tests.service.running_server import running

Files = dict[str, bytes] | list[tuple[str, bytes]]


def ask(
    service: httpx.Client, files: Files, address: str = "/v1/classify", **values: str | float
) -> dict[str, Any]:
    """The answer to these files, which must be 200."""
    response = service.post(address, files=files, data={k: str(v) for k, v in values.items()})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert response.headers["X-Request-ID"] == answer["id"]
    return dict(answer)


def probabilities(answer: dict[str, Any]) -> dict[str, float]:
    return {entry["label"]: entry["probability"] for entry in answer["probabilities"]}


def logits(answer: dict[str, Any]) -> NDArray[np.float64]:
    """The sum of all contributions, in the labels' order."""
    shares = answer["contributions"].values()
    return np.array([sum(share[label] for share in shares) for label in LABELS])


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(x - x.max())
    return np.asarray(raised / raised.sum())


def picture(png_base64: str) -> NDArray[np.uint8]:
    data = base64.b64decode(png_base64, validate=True)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


@pytest.mark.parametrize("name", ["digit-7.mp4", "digit-7.webm"])
def test_a_clip_is_answered_with_every_label_and_what_was_found_in_it(
    service: httpx.Client, name: str
) -> None:
    answer = ask(service, {"clip": (CLIPS / name).read_bytes()})
    ranked = answer["probabilities"]
    assert {entry["label"] for entry in ranked} == set(LABELS)
    assert all(entry["label"] == LABELS[entry["index"]] for entry in ranked)
    assert [e["probability"] for e in ranked] == sorted(probabilities(answer).values())[::-1]
    assert sum(probabilities(answer).values()) == pytest.approx(1, abs=1e-6)
    assert answer["prediction"] == ranked[0]
    assert answer["model"] == {"name": "avdigits", "version": "0.0.1"}
    assert answer["streams"]["audio"]["used"] is True
    assert answer["streams"]["audio"]["sample_rate"] == 48_000
    assert answer["streams"]["audio"]["duration_s"] == pytest.approx(2, abs=0.1)
    assert answer["streams"]["visual"] == {
        "used": True, "frames": STEPS, "width": 320, "height": 240,
    }  # fmt: skip
    assert (answer["steps"], answer["batch_size"]) == (STEPS, 1)
    timing = answer["timing_ms"]
    parts = [timing[part] for part in ("decode", "preprocess", "queue", "inference")]
    assert min(parts) >= 0
    assert sum(parts) <= timing["total"]


def test_video_and_audio_apart_are_the_clip_that_they_came_from(
    service: httpx.Client, clip: bytes
) -> None:
    together = ask(service, {"clip": clip})
    apart = ask(service, {"video": without_sound(clip), "audio": clip})
    assert probabilities(apart) == pytest.approx(probabilities(together), abs=1e-5)


def test_the_clips_own_frames_and_its_sound_are_the_clip(
    service: httpx.Client, clip: bytes
) -> None:
    pictures = read_clip(clip, STEPS, sound=False).pictures
    assert pictures is not None
    frames = [("frames", png(frame)) for frame in pictures.frames]
    together = ask(service, {"clip": clip})
    apart = ask(service, [*frames, ("audio", clip)])
    assert probabilities(apart) == pytest.approx(probabilities(together), abs=1e-5)
    backwards = ask(service, [*frames[::-1], ("audio", clip)])
    assert probabilities(backwards) != pytest.approx(probabilities(together), abs=1e-5)


def test_more_frames_than_steps_are_spread_and_fewer_are_held(
    service: httpx.Client, clip: bytes
) -> None:
    bars = [("frames", bar(at)) for at in range(11)]
    sound = ("audio", clip)
    many = ask(service, [*bars, sound])
    spread = ask(service, [*(bars[at] for at in (1, 4, 6, 9)), sound])
    first = ask(service, [*bars[:4], sound])
    assert many["streams"]["visual"]["frames"] == STEPS
    assert probabilities(many) == pytest.approx(probabilities(spread), abs=1e-5)
    assert probabilities(many) != pytest.approx(probabilities(first), abs=1e-5)
    one = ask(service, [bars[3], sound])
    assert one["streams"]["visual"] == {"used": True, "frames": 1, "width": 120, "height": 80}
    one_frame = ask(service, [*[bars[3]] * STEPS, sound])
    assert probabilities(one) == pytest.approx(probabilities(one_frame), abs=1e-5)


def bar(at: int) -> bytes:
    """A picture of an upright bar, the further right the larger `at`."""
    frame = np.full((80, 120, 3), 230, np.uint8)
    frame[10:70, 10 * at : 10 * at + 10] = 20
    return png(frame)


@pytest.mark.parametrize(
    ("field", "used", "unused"), [("audio", "audio", "visual"), ("video", "visual", "audio")]
)
def test_one_stream_alone_is_answered_and_the_other_contributes_nothing(
    service: httpx.Client, clip: bytes, field: str, used: str, unused: str
) -> None:
    answer = ask(service, {field: clip})
    assert answer["streams"][used]["used"] is True
    assert answer["streams"][unused]["used"] is False
    assert answer["streams"][unused]["reason"]
    assert set(answer["contributions"][unused].values()) == {0.0}
    assert any(answer["contributions"][used].values())
    assert answer["attention"] == {}, "nothing looked at anything"


def test_a_clip_without_sound_says_that_it_has_none(service: httpx.Client, clip: bytes) -> None:
    answer = ask(service, {"clip": without_sound(clip)})
    assert answer["streams"]["audio"] == {"used": False, "reason": "there is no sound in it"}


def test_contributions_and_bias_add_up_to_the_logits(service: httpx.Client, clip: bytes) -> None:
    answer = ask(service, {"clip": clip}, steps=3)
    assert set(answer["contributions"]) == {"audio", "visual", "bias"}
    expected = softmax(logits(answer))
    by_label = probabilities(answer)
    assert [by_label[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)


def test_an_answer_below_the_threshold_has_no_label(service: httpx.Client, clip: bytes) -> None:
    plain = ask(service, {"clip": clip})
    assert plain["abstained"] is False
    highest = plain["prediction"]["probability"]
    above = ask(service, {"clip": clip}, abstain_below=f"{highest - 0.001:.6f}")
    below = ask(service, {"clip": clip}, abstain_below=f"{highest + 0.001:.6f}")
    assert above["prediction"] == plain["prediction"]
    assert below["prediction"] == {"probability": highest}
    assert (above["abstained"], below["abstained"]) == (False, True)
    assert below["probabilities"] == plain["probabilities"]


@pytest.mark.parametrize("limit", [1e-6, 1e6])
def test_a_clip_beyond_the_domain_has_no_label_where_that_is_requested(
    tmp_path: Path, clip: bytes, limit: float
) -> None:
    means = tuple(tuple(0.0 for _ in range(20)) for _ in LABELS)
    precision = tuple(tuple(float(i == j) for j in range(20)) for i in range(20))
    reference = LogitReference(means=means, precision=precision, limit=limit)
    domain = OODReferences(steps=STEPS, references={"audio+visual": reference})
    checkpoints.save(tmp_path / "avdigits", domain=domain)
    with running(tmp_path) as client:
        plain = ask(client, {"clip": clip})
        limited = ask(client, {"clip": clip}, abstain_beyond=1)
        others = [ask(client, {"audio": clip}, abstain_beyond=0),
                  ask(client, {"clip": clip}, abstain_beyond=0, steps=2)]  # fmt: skip
    values = [list(plain["contributions"][name].values()) for name in ("audio", "visual")]
    expected = float(np.linalg.norm(values)) / limit
    assert plain["out_of_domain"] == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert plain["abstained"] is False
    assert limited["abstained"] is (expected > 1)
    assert ("label" in limited["prediction"]) is not limited["abstained"]
    for other in others:
        assert "out_of_domain" not in other
        assert other["abstained"] is False


@pytest.fixture(scope="module")
def calibrated_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service of a checkpoint that abstains and has temperatures, and of one that has none."""
    folder = tmp_path_factory.mktemp("calibrated")
    temperatures = Calibration(temperature={1: 4.0, 4: 0.5}, alone={"audio": {4: 8.0}})
    checkpoints.save(folder / "avdigits", calibration=temperatures, abstain_below=1.0)
    checkpoints.save(folder / "plain")
    with running(folder) as client:
        yield client


@pytest.mark.parametrize(
    ("field", "steps", "temperature"),
    [("clip", 4, 0.5), ("clip", 1, 4.0), ("clip", 2, 2.25), ("audio", 4, 8.0), ("video", 4, 0.5)],
)
def test_probabilities_are_those_of_logits_divided_by_the_cards_temperature(
    calibrated_service: httpx.Client, clip: bytes, field: str, steps: int, temperature: float
) -> None:
    answer = ask(calibrated_service, {field: clip}, steps=steps)
    plain = ask(calibrated_service, {field: clip}, "/v1/models/plain/classify", steps=steps)
    assert answer["contributions"] == plain["contributions"], "logits are as the network has them"
    expected = softmax(logits(plain) / temperature)
    by_label = probabilities(answer)
    assert [by_label[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)
    assert answer["abstained"] is True
    assert ask(calibrated_service, {field: clip}, abstain_below=0)["abstained"] is False
    assert plain["abstained"] is False


def test_leave_one_out_is_the_logits_of_all_minus_those_without_the_stream(
    service: httpx.Client, clip: bytes
) -> None:
    answer = ask(service, {"clip": clip}, steps=3, contributions="leave_one_out")
    plain = ask(service, {"clip": clip}, steps=3)
    assert "leave_one_out" not in plain
    assert answer["contributions"] == plain["contributions"]
    assert set(answer["leave_one_out"]["changes"]) == {"audio", "visual"}
    for stream, field in (("audio", "video"), ("visual", "audio")):
        without = ask(service, {field: clip}, steps=3)
        changes = answer["leave_one_out"]["changes"][stream]
        expected = logits(answer) - logits(without)
        assert [changes[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)
        assert np.abs(expected).max() > 0.01
    again = ask(service, {"clip": clip}, steps=3, contributions="leave_one_out")
    assert again["leave_one_out"] == answer["leave_one_out"]


def test_leave_one_out_of_a_single_stream_says_that_nothing_is_left(
    service: httpx.Client, clip: bytes
) -> None:
    answer = ask(service, {"audio": clip}, contributions="leave_one_out")
    reason = "only audio was used, and without it nothing is left to classify"
    assert answer["leave_one_out"] == {"reason": reason}


def test_leave_one_out_needs_a_checkpoint_that_supports_missing_streams(
    service: httpx.Client, clip: bytes
) -> None:
    address = "/v1/models/strict/classify"
    values = {"contributions": "leave_one_out"}
    response = service.post(address, files={"clip": clip}, data=values)
    assert response.status_code == 422
    problem = response.json()
    assert problem["field"] == "contributions"
    assert "strict does not support missing streams" in problem["detail"]
    assert "leave_one_out" not in ask(service, {"clip": clip}, address, contributions="tower")


def test_diagnostics_are_the_operations_of_the_clip(service: httpx.Client, clip: bytes) -> None:
    plain = ask(service, {"clip": clip}, steps=3)
    answer = ask(service, {"clip": clip}, steps=3, diagnostics="true")
    assert "diagnostics" not in plain
    assert answer["contributions"] == plain["contributions"]
    diagnostics = answer["diagnostics"]
    layers = diagnostics["layers"]
    assert {"patch.audio.stages.0", "mlp.visual.expand", "head"} <= set(layers)
    energy = sum(0.9 * x["accumulates"] + 4.6 * x["multiply_accumulates"] for x in layers.values())
    assert diagnostics["energy_uj"] == pytest.approx(energy / 1e6, rel=1e-3)
    dense = sum(4.6 * x["dense"] for x in layers.values())
    assert diagnostics["dense_energy_uj"] == pytest.approx(dense / 1e6, rel=1e-3)
    assert all(0 <= x.get("firing_rate", 0) <= 1 for x in layers.values())
    more = ask(service, {"clip": clip}, steps=6, diagnostics="true")["diagnostics"]
    assert more["energy_uj"] > diagnostics["energy_uj"]
    assert more["dense_energy_uj"] == diagnostics["dense_energy_uj"]


@pytest.mark.parametrize("steps", [1, 6, 64])
def test_steps_are_what_was_asked_for(service: httpx.Client, clip: bytes, steps: int) -> None:
    answer = ask(service, {"clip": clip}, steps=steps)
    assert answer["steps"] == steps
    assert not answer["degraded"], "fewer steps that were asked for are no less than that"
    for maps in answer["attention"].values():
        assert np.shape(maps["temporal"]["values"]) == (steps, steps)


def test_top_k_are_the_first_of_all(service: httpx.Client, clip: bytes) -> None:
    everything = ask(service, {"clip": clip})["probabilities"]
    assert ask(service, {"clip": clip}, top_k=3)["probabilities"] == everything[:3]
    assert ask(service, {"clip": clip}, top_k=999)["probabilities"] == everything


def test_attention_none_leaves_the_maps_out_and_nothing_else(
    service: httpx.Client, clip: bytes
) -> None:
    full = ask(service, {"clip": clip})
    bare = ask(service, {"clip": clip}, attention="none")
    assert set(full) - set(bare) == {"attention"}
    assert probabilities(bare) == pytest.approx(probabilities(full), abs=1e-5)


def test_the_grid_has_shares_that_sum_to_1_over_cells_with_edges(
    service: httpx.Client, clip: bytes
) -> None:
    answer = ask(service, {"clip": clip})
    assert set(answer["attention"]) == {"audio", "visual"}
    for maps in answer["attention"].values():
        spatial = maps["spatial"]
        values = np.array(spatial["values"])
        assert values.min() >= 0
        assert values.sum() == pytest.approx(1, abs=1e-5)
        assert len(spatial["row_edges"]) == values.shape[0] + 1
        assert len(spatial["column_edges"]) == values.shape[1] + 1
        assert min(np.diff(spatial["row_edges"])) > 0
        assert min(np.diff(spatial["column_edges"])) > 0
        assert np.shape(maps["temporal"]["values"]) == (STEPS, STEPS)
        assert "overlay_png" not in maps


def test_class_activation_maps_sum_to_the_contributions_of_the_most_probable_label(
    service: httpx.Client, clip: bytes
) -> None:
    for abstain_below in (0, 1):  # the maps are there where the answer has no label as well
        answer = ask(
            service, {"clip": clip}, attention="none", class_activation="grid",
            abstain_below=abstain_below,
        )  # fmt: skip
        assert "attention" not in answer
        activation, first = answer["class_activation"], answer["probabilities"][0]
        assert (activation["label"], activation["index"]) == (first["label"], first["index"])
        assert set(activation["maps"]) == {"audio", "visual"}
        for name, drawn in activation["maps"].items():
            term = answer["contributions"][name][first["label"]]
            assert np.sum(drawn["spatial"]["values"]) == pytest.approx(term, abs=1e-4)
            assert "overlay_png" not in drawn
    attention = ask(service, {"clip": clip}, attention="grid")["attention"]
    for name, drawn in activation["maps"].items():
        for edges in ("rows", "columns", "row_edges", "column_edges"):
            assert drawn["spatial"][edges] == attention[name]["spatial"][edges]


def test_class_activation_maps_of_one_stream_and_as_pictures(
    service: httpx.Client, clip: bytes
) -> None:
    answer = ask(service, {"video": clip}, attention="none", class_activation="overlay")
    maps = answer["class_activation"]["maps"]
    assert set(maps) == {"visual"}
    assert picture(maps["visual"]["overlay_png"]).size


def test_axes_are_in_the_units_of_the_source(service: httpx.Client) -> None:
    portrait = (CLIPS / "digit-2.mp4").read_bytes()  # 240 x 320 pixels
    answer = ask(service, {"clip": portrait})
    visual, audio = (answer["attention"][name]["spatial"] for name in ("visual", "audio"))
    assert (visual["rows"], visual["columns"]) == ("y", "x")
    assert (visual["row_edges"][0], visual["row_edges"][-1]) == pytest.approx((0, 320))
    assert (visual["column_edges"][0], visual["column_edges"][-1]) == pytest.approx(
        (-280 / 3, 1000 / 3)
    )
    assert (audio["rows"], audio["columns"]) == ("frequency_hz", "time_s")
    low, high = audio["row_edges"][0], audio["row_edges"][-1]
    assert 60 <= low < high <= 3900
    begin, end = audio["column_edges"][0], audio["column_edges"][-1]
    assert end - begin == pytest.approx(1.44)
    assert begin < 2, "the window lies in a sound of 2 s"
    assert end > 0


def test_the_overlay_is_a_png_over_the_frame_and_over_the_spectrogram(
    service: httpx.Client,
) -> None:
    portrait = (CLIPS / "digit-2.webm").read_bytes()
    answer = ask(service, {"clip": portrait}, attention="overlay")
    frame = picture(answer["attention"]["visual"]["overlay_png"])
    assert frame.shape[0] / frame.shape[1] == pytest.approx(320 / 240, abs=0.01)
    plot = picture(answer["attention"]["audio"]["overlay_png"])
    assert plot.shape[1] > plot.shape[0], "time runs along the longer side"
    assert (plot[:, :3] == 255).all(), "axes stand on white"
    grid = ask(service, {"clip": portrait})["attention"]["visual"]["spatial"]["values"]
    values = answer["attention"]["visual"]["spatial"]["values"]
    assert np.array(values) == pytest.approx(np.array(grid), abs=1e-6)


@pytest.mark.slow
def test_an_answer_is_the_same_alone_and_together_with_others(weights: Path) -> None:
    clips = [(CLIPS / f"digit-{digit}.mp4").read_bytes() for digit in range(10)]
    with running(weights, max_batch_wait_ms=5000) as service:
        alone = [ask(service, {"clip": clip}, attention="none") for clip in clips]
        with ThreadPoolExecutor(10) as pool:
            together = list(
                pool.map(lambda clip: ask(service, {"clip": clip}, attention="none"), clips)
            )
    assert {answer["batch_size"] for answer in alone} == {1}
    assert max(answer["batch_size"] for answer in together) > 2
    for one, other in zip(alone, together, strict=True):
        assert probabilities(other) == pytest.approx(probabilities(one), abs=1e-5)


def test_another_checkpoint_answers_by_its_name(service: httpx.Client, clip: bytes) -> None:
    named = ask(service, {"clip": clip}, "/v1/models/avdigits/classify")
    other = ask(service, {"clip": clip}, "/v1/models/strict/classify")
    assert probabilities(named) == pytest.approx(probabilities(ask(service, {"clip": clip})))
    assert other["model"]["name"] == "strict"
    assert probabilities(other) != pytest.approx(probabilities(named), abs=1e-3)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(16_000),
        np.full(16_000, 1e38),
        1e-44 * tone(),
        np.ones(1),
        tone(0.01),
    ],
    ids=["silence", "enormous", "tiny", "one sample", "10 ms"],
)
def test_odd_sounds_are_answered_with_real_numbers(
    service: httpx.Client, clip: bytes, samples: NDArray[np.float64]
) -> None:
    answer = ask(service, {"video": clip, "audio": wav(samples)}, attention="overlay")
    assert sum(probabilities(answer).values()) == pytest.approx(1, abs=1e-6)
    assert np.isfinite(logits(answer)).all()
    for maps in answer["attention"].values():
        for numbers in (maps["temporal"]["values"], *maps["spatial"].values()):
            assert isinstance(numbers, str) or np.isfinite(np.array(numbers, float)).all()
        assert picture(maps["overlay_png"]).size


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_odd_pictures_are_answered(service: httpx.Client, size: tuple[int, int]) -> None:
    page = np.full((*size, 3), 200, np.uint8)
    page[: (size[0] + 1) // 2, : (size[1] + 1) // 2] = 20
    files = {"frames": png(page), "audio": wav(tone())}
    answer = ask(service, files, "/v1/models/strict/classify", attention="overlay")
    assert answer["streams"]["visual"]["height"] == size[0]
    assert picture(answer["attention"]["visual"]["overlay_png"]).size


def test_json_with_base64_is_answered_as_the_form(service: httpx.Client, clip: bytes) -> None:
    body = {"clip": base64.b64encode(clip).decode(), "steps": 3, "attention": "none"}
    response = service.post("/v1/classify", json=body)
    assert response.status_code == 200, response.text
    form = ask(service, {"clip": clip}, steps=3, attention="none")
    assert response.json()["contributions"] == form["contributions"]
    refused = service.post("/v1/classify", json=body | {"steps": 0})
    assert (refused.status_code, refused.json()["field"]) == (422, "steps")
    assert service.post("/v1/classify", json={}).status_code == 422


def test_json_has_a_limit_of_its_own(service: httpx.Client) -> None:
    response = service.post("/v1/classify", json={"clip": "A" * (33 << 20)})
    assert response.status_code == 413
    assert "SCMRL_MAX_JSON_MIB" in response.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/batch"])
def test_a_field_in_the_query_is_refused_and_not_passed_over(
    service: httpx.Client, clip: bytes, path: str
) -> None:
    refused = service.post(path, params={"top_k": 1}, files={"clip": clip})
    assert refused.status_code == 422
    assert refused.json()["field"] == "top_k"
    assert "in the query" in refused.json()["detail"]
    numbered = service.post(path, params={"top_k.0": 1}, files={"clip": clip})
    assert numbered.status_code == (422 if path.endswith("batch") else 200)
    assert service.post(path, params={"trace": 1}, files={"clip": clip}).status_code == 200
