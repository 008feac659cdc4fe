"""What Prometheus sees: counts of what clients did, and the service's own state."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pydantic import SecretStr

from model.network import Output
from service.app import create_app
from service.errors import Error
from service.inference import batch_worker
from service.settings import Settings
from tests.conftest import ROOT
from tests.service.running_server import listening, until_ready, wait_until
from tests.service.scraped import Scrape, scrape

pytestmark = pytest.mark.slow

CLASSIFY = "/v1/classify"
STAGES = {"decode_wait", "decode", "preprocess", "queue", "inference", "explain"}


@pytest.fixture(scope="module")
def app(weights: Path) -> FastAPI:
    settings = Settings(models=weights, queue_length=4, compile="off", max_body_bytes=1_000_000)
    return create_app(settings)


@pytest.fixture(scope="module")
def service(app: FastAPI) -> Iterator[httpx.Client]:
    """A service of this module's own, whose counts other tests do not change."""
    with listening(app) as client:
        wait_until(lambda: scrape(client).total("scmrl_model_ready") == 2)
        yield client


@pytest.fixture
def before(service: httpx.Client) -> Scrape:
    return scrape(service)


def once(client: httpx.Client, holds: Callable[[Scrape], bool]) -> Scrape:
    """Return the first scrape for which `holds` is true.

    A request is counted after its response has been sent, so the next scrape may be too early.
    """
    scraped = scrape(client)

    def looked() -> bool:
        nonlocal scraped
        scraped = scrape(client)
        return holds(scraped)

    wait_until(looked)
    return scraped


def test_a_clip_is_counted_and_timed_in_every_stage(
    service: httpx.Client, before: Scrape, clip: bytes
) -> None:
    answers = [service.post(CLASSIFY, files={"clip": clip}).json() for _ in range(3)]
    request_labels = {"route": CLASSIFY, "method": "POST", "status": "200", "model": "avdigits"}
    requests = "scmrl_requests_total"
    after = once(
        service,
        lambda s: (
            s.total(requests, **request_labels) - before.total(requests, **request_labels) == 3
        ),
    )

    def grew(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    assert grew("scmrl_request_seconds_count", route=CLASSIFY, model="avdigits") == 3
    assert grew("scmrl_batch_size_count", model="avdigits") == 3
    assert grew("scmrl_batch_size_sum", model="avdigits") == 3
    assert grew("scmrl_batch_size_bucket", model="avdigits", le="1.0") == 3
    assert after.values("scmrl_stage_seconds_count", "stage") == STAGES
    for stage in STAGES:
        assert grew("scmrl_stage_seconds_count", stage=stage, model="avdigits") == 3
    for stage in ("decode", "preprocess", "queue", "inference"):
        reported = sum(answer["timing_ms"][stage] for answer in answers)
        measured = 1000 * grew("scmrl_stage_seconds_sum", stage=stage)
        assert measured == pytest.approx(reported, abs=0.01)
    for stream in ("audio", "visual"):
        assert grew("scmrl_firing_rate_count", stream=stream, model="avdigits") == 3
        assert 0 < grew("scmrl_firing_rate_sum", stream=stream) / 3 < 1
    assert not grew("scmrl_requests_total", model="strict")


def test_a_checkpoint_counts_for_itself(service: httpx.Client, before: Scrape, clip: bytes) -> None:
    service.post("/v1/models/strict/classify", files={"clip": clip})
    labels = {"route": "/v1/models/{name}/classify", "model": "strict", "status": "200"}
    once(service, lambda s: s.total("scmrl_requests_total", **labels) == 1)


def test_rejects_are_counted_by_their_reason(
    service: httpx.Client, app: FastAPI, before: Scrape, clip: bytes
) -> None:
    def post(content: bytes, model: str = "avdigits", **data: str) -> int:
        path = f"/v1/models/{model}/classify"
        return service.post(path, files={"clip": content}, data=data).status_code

    batcher = app.state.scmrl.registry.get("avdigits").batcher
    statuses = {
        "unknown_format": post(b"not a clip, " * 20),
        "unusable": post(clip[:200]),
        "too_large": post(bytes(1_000_001)),
        "invalid_field": post(clip, steps="none"),
        "unknown_model": post(clip, model="nobody"),
        "unreadable_form": service.post(
            CLASSIFY, content=b"?", headers={"Content-Type": "text/plain"}
        ).status_code,
        "not_found": service.get("/nowhere").status_code,
        "method_not_allowed": service.get(CLASSIFY).status_code,
    }
    slots = [batcher.slot() for _ in range(4)]
    for slot in slots:
        slot.__enter__()
    full = scrape(service)
    assert full.total("scmrl_requests_in_flight", model="avdigits") == 4
    assert full.total("scmrl_slots", model="avdigits") == 4
    assert full.total("scmrl_places_taken", model="avdigits") == 4, "the name of version 0.1"
    assert full.total("scmrl_places", model="avdigits") == 4
    statuses["full"] = post(clip)
    for slot in slots:
        slot.__exit__(None, None, None)

    assert statuses == {name: Error[name.upper()].status for name in statuses}
    name = "scmrl_rejects_total"
    once(
        service,
        lambda s: all(
            s.total(name, reason=r) - before.total(name, reason=r) == 1 for r in statuses
        ),
    )
    after = scrape(service)
    assert after.values(name, "reason") == {error.name.lower() for error in Error}
    assert after.total(name, reason="full", model="avdigits") == 1
    assert after.total("scmrl_requests_in_flight") == 0


def test_no_label_is_what_a_client_makes_up(service: httpx.Client, clip: bytes) -> None:
    paths = (CLASSIFY, "/v1/models/strict/classify")
    made_up = ("/made-up-1", "/v1/models/made-up-2/classify", "/docs/static/made-up-3")
    for path in paths + made_up:
        service.post(path, files={"clip": clip})
    service.request("PROPFIND", "/nowhere")
    after = once(service, lambda s: s.total("scmrl_requests_total", method="other") > 0)
    text = service.get("/metrics").text
    assert not re.search("made-?up", text, re.IGNORECASE)
    assert after.values("scmrl_requests_total", "route") <= {
        CLASSIFY, "/v1/models/{name}/classify", "/metrics", "other",
    }  # fmt: skip
    assert after.values("scmrl_requests_total", "model") == {"", "avdigits", "strict"}


def test_a_request_that_is_refused_early_counts_for_its_route(tmp_path: Path) -> None:
    """So that an operator sees which path the refusals come to."""
    key = "q7Zt4mXv9RkB2wLc8NpY"
    settings = Settings(models=tmp_path, api_keys=SecretStr(f"anna:{key}"))
    with listening(create_app(settings)) as client:
        for path in (CLASSIFY, "/v1/models/made-up/classify", "/made-up"):
            assert client.post(path).status_code == 401
        client.headers["Authorization"] = f"Bearer {key}"
        name = "scmrl_requests_total"
        after = once(client, lambda s: s.total(name, status="401") == 3)
        assert after.total(name, route=CLASSIFY, status="401") == 1
        assert after.total(name, route="/v1/models/{name}/classify", status="401") == 1
        assert after.total(name, route="other", status="401") == 1


def test_a_client_that_has_gone_is_a_499(service: httpx.Client, clip: bytes) -> None:
    with pytest.raises(httpx.ReadTimeout):
        service.post(
            CLASSIFY,
            files={"clip": clip},
            data={"steps": "64"},
            timeout=httpx.Timeout(10, read=0.05),
        )
    once(service, lambda s: s.total("scmrl_requests_total", status="499", model="avdigits") == 1)


def test_the_length_of_the_queue_is_a_metric(
    service: httpx.Client, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are put into the queue without notifying its worker, so that they stay in it."""
    batcher = app.state.scmrl.registry.get("strict").batcher
    assert scrape(service).total("scmrl_queue_length", model="strict") == 0
    monkeypatch.setattr(batcher._queue, "_requests", [object()] * 3)
    assert scrape(service).total("scmrl_queue_length", model="strict") == 3


def test_requests_that_run_together_are_one_batch(
    weights: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer: Callable[..., Output] = batch_worker._infer
    first = threading.Event()

    def slow(engine: Any, batch: Any) -> Output:
        first.set()
        wait_until(lambda: len(batch) == 3 or batcher.queued == 3)
        return infer(engine, batch)

    app = create_app(Settings(models=weights, compile="off"))
    with listening(app) as client:
        until_ready(client)
        batcher = app.state.scmrl.registry.get("avdigits").batcher
        monkeypatch.setattr(batch_worker, "_infer", slow)
        with httpx.Client(base_url=client.base_url, timeout=60) as other:
            from concurrent.futures import ThreadPoolExecutor

            def ask() -> int:
                return other.post(CLASSIFY, files={"clip": clip}).status_code

            with ThreadPoolExecutor(4) as pool:
                submitted = [pool.submit(ask)]
                assert first.wait(60)
                submitted += [pool.submit(ask) for _ in range(3)]
        assert [one.result() for one in submitted] == [200] * 4
        after = scrape(client)
    assert after.total("scmrl_batch_size_count", model="avdigits") == 2
    assert after.total("scmrl_batch_size_sum", model="avdigits") == 4
    assert after.total("scmrl_batch_size_bucket", model="avdigits", le="2.0") == 1
    assert after.total("scmrl_batch_size_bucket", model="avdigits", le="4.0") == 2


def test_restarts_and_a_worker_that_has_gone_are_seen(weights: Path, clip: bytes) -> None:
    app = create_app(Settings(models=weights, compile="off", decode_workers=1))
    with listening(app) as client:
        until_ready(client)
        restarts = "scmrl_worker_restarts_total"
        assert client.post(CLASSIFY, files={"clip": clip}).status_code == 200
        assert scrape(client).total(restarts) == 0

        (process,) = app.state.scmrl.decoders._processes.idle
        os.kill(process.pid, 9)
        assert client.post(CLASSIFY, files={"clip": clip}).status_code == 200
        assert scrape(client).total(restarts, kind="decode", model="") == 1

        batcher = app.state.scmrl.registry.get("avdigits").batcher
        (worker,) = batcher._supervisor._workers
        worker.dismiss()  # its next look at its queue ends the thread, as a bug would
        once(client, lambda s: s.total(restarts, kind="engine", model="avdigits") == 1)
        once(client, lambda s: s.total("scmrl_model_ready", model="avdigits") == 1)
        assert client.post(CLASSIFY, files={"clip": clip}).status_code == 200

        batcher.stop()
        once(client, lambda s: s.total("scmrl_model_ready", model="avdigits") == 0)


def test_memory_and_versions_are_metrics(service: httpx.Client) -> None:
    scraped = scrape(service)
    used = scraped.total("scmrl_device_memory_bytes")
    assert 1e6 < used < scraped.total("scmrl_device_memory_limit_bytes")
    if scraped.values("scmrl_device_memory_bytes", "device") == {"cpu"}:
        assert used == pytest.approx(scraped.total("process_resident_memory_bytes"), rel=0.2)
    ((build, _),) = scraped.samples["scmrl_build_info"]
    assert set(build) == {"version", "python", "torch"}
    assert scraped.total("scmrl_model_info", model="strict", version="0.0.1", path="plain") == 1


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("text/html", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1"),
        ("application/openmetrics-text; version=none", "text/plain; version=0.0.4"),
        ("text/plain; version=1.a", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=99", ""),
    ],
)
def test_the_format_is_what_the_scraper_takes(
    service: httpx.Client, accept: str, content_type: str
) -> None:
    response = service.get("/metrics", headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith(content_type)
    if "openmetrics" in response.headers["Content-Type"]:
        names = {family.name for family in text_string_to_metric_families(response.text)}
        assert "scmrl_requests" in names


def test_the_description_is_of_what_clients_ask_for(service: httpx.Client) -> None:
    assert "/metrics" not in service.get("/openapi.json").json()["paths"]


def test_before_anything_is_loaded_there_are_metrics() -> None:
    with listening(create_app(Settings(models=ROOT / "nowhere"))) as client:
        scraped = scrape(client)
    assert scraped.total("scmrl_model_ready", model="avdigits") == 0
    assert scraped.samples["scmrl_model_ready"]
