"""Several clips in one call, over HTTP."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.conftest import CLIPS
from tests.service.media_files import tone, wav
from tests.service.running_server import listening, until_ready, wait_until
from tests.service.scraped import scrape

BATCH = "/v1/classify/batch"
KEY = "anna-q7Zt4mXv9RkB2wLc8NpY"


def results(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["id"] == response.headers["X-Request-ID"]
    for number, result in enumerate(body["results"]):
        (content,) = (result.get(name) for name in ("answer", "problem") if name in result)
        assert content["id"] == f"{body['id']}.{number}"
    return list(body["results"])


def test_each_clip_is_answered_as_alone_and_a_bad_one_has_its_problem(
    service: httpx.Client,
) -> None:
    clips = [(CLIPS / f"digit-{digit}.mp4").read_bytes() for digit in (3, 7, 1)]
    sent = [*clips[:2], b"Dear diary", clips[2], b""]
    values = {"attention": "none", "steps.3": "2"}
    before = scrape(service)
    files = [("clip", (f"{n}.mp4", data)) for n, data in enumerate(sent)]
    each = results(service.post(BATCH, files=files, data=values))
    for number, steps in ((0, 4), (1, 4), (3, 2)):
        data = {"attention": "none", "steps": str(steps)}
        alone = service.post("/v1/classify", files={"clip": sent[number]}, data=data).json()
        answer = each[number]["answer"]
        assert answer["steps"] == steps
        for label, value in alone["contributions"]["audio"].items():
            assert answer["contributions"]["audio"][label] == pytest.approx(value, abs=1e-5)
    assert [each[n]["problem"]["status"] for n in (2, 4)] == [415, 422]
    assert [each[n]["problem"]["field"] for n in (2, 4)] == ["clip", "clip"]
    after = scrape(service)

    def counted(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    assert counted("scmrl_requests_total", route=BATCH, status="200", model="avdigits") == 1
    assert counted("scmrl_rejects_total", reason="unknown_format", model="avdigits") == 1
    assert counted("scmrl_rejects_total", reason="unusable", model="avdigits") == 1
    runs = counted("scmrl_stage_seconds_count", stage="inference", model="avdigits")
    assert runs == 6, "three alone, three of the batch"


def test_streams_apart_have_the_number_of_their_clip_and_json_is_an_array(
    service: httpx.Client, clip: bytes
) -> None:
    sound = wav(tone())
    files = [("audio.1", sound), ("video.0", clip), ("audio.0", sound)]
    each = results(service.post("/v1/models/strict/classify/batch", files=files))
    assert each[0]["answer"]["model"]["name"] == "strict"
    assert each[1]["problem"]["field"] == "video", "strict needs both streams"
    encoded = base64.b64encode(clip).decode()
    other = base64.b64encode(sound).decode()
    body = [{"video": encoded, "audio": other}, {"audio": other, "top_k": 1}, {}]
    again = results(service.post(BATCH, json=body))
    assert len(again[1]["answer"]["probabilities"]) == 1
    assert again[2]["problem"]["status"] == 422


def test_a_call_is_refused_as_a_whole_for_its_form(service: httpx.Client, clip: bytes) -> None:
    for data, field in (({"steps": "0"}, "steps"), ({"steps.1": "0"}, "steps.1")):
        refused = service.post(BATCH, files=[("clip", clip), ("clip", clip)], data=data)
        assert (refused.status_code, refused.json()["field"]) == (422, field)
    assert service.post(BATCH, json=[]).status_code == 422
    refused = service.post(BATCH, json=[{}] * 65)
    assert refused.status_code == 413
    assert "SCMRL_CALL_CLIPS" in refused.json()["detail"]
    assert service.post("/v1/classify", files={"clip.0": clip}).status_code == 422


@pytest.mark.slow
def test_a_call_has_a_few_clips_in_flight_and_none_where_its_client_has_gone(
    service: httpx.Client, clip: bytes
) -> None:
    in_flight = []

    def count() -> float:
        in_flight.append(scrape(service).total("scmrl_requests_in_flight", model="avdigits"))
        return in_flight[-1]

    before = scrape(service).total("scmrl_requests_total", route=BATCH, status="499")
    with httpx.Client(base_url=service.base_url) as other:
        form = other.build_request("POST", BATCH, files=[("clip", clip)] * 60)
        body = form.read()
    address = (str(service.base_url.host), service.base_url.port or 0)
    with socket.create_connection(address) as connection:
        head = [f"POST {BATCH} HTTP/1.1", f"Host: {address[0]}"]
        head += [f"{name}: {form.headers[name]}" for name in ("Content-Type", "Content-Length")]
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        wait_until(lambda: count() > 0)
        for _ in range(5):
            count()
    wait_until(lambda: count() == 0)
    assert 1 <= max(in_flight) <= 4
    gone = {"route": BATCH, "status": "499"}
    wait_until(lambda: scrape(service).total("scmrl_requests_total", **gone) == before + 1)
    assert service.post("/v1/classify", files={"clip": clip}).status_code == 200


@pytest.fixture(scope="module")
def limited(weights: Path) -> Iterator[httpx.Client]:
    """A service with a key of two clips per minute."""
    settings = Settings(models=weights, compile="off", api_keys=f"anna:{KEY}:2")
    with listening(create_app(settings)) as client:
        until_ready(client)
        client.headers["Authorization"] = f"Bearer {KEY}"
        yield client


def test_every_clip_counts_towards_the_keys_limit(limited: httpx.Client) -> None:
    sound = wav(tone())
    answered = limited.post(BATCH, files=[("audio", sound)] * 4)
    assert [list(result) for result in results(answered)] == [["answer"]] * 4
    refused = limited.post(BATCH, files=[("audio", sound)])
    assert refused.status_code == 429
    # Two of the four were not there: a minute for them, and half a minute for the next.
    assert 80 < int(refused.headers["Retry-After"]) <= 90
