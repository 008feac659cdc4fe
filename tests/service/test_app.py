"""The service as a whole, over HTTP: its state, its description, and its limits in time."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model import checkpoint
from model.config import MAX_STEPS
from service.app import create_app
from service.device_link.devices import Devices
from service.inference import model_loader
from service.inference.served_model import ServedModel
from service.runtime import switch_interval
from service.settings import Settings
from tests.service import checkpoints
from tests.service.integration.test_refusals import logged, problem
from tests.service.running_server import listening, running, statuses, until_ready, wait_until

pytestmark = pytest.mark.slow

CLASSIFY = "/v1/classify"


class PausedLoading:
    """Loads that wait until `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.loaded: list[Path] = []
        self._load = model_loader.load
        monkeypatch.setattr(model_loader, "load", self.load)

    def load(
        self,
        folder: Path,
        settings: Settings,
        devices: Devices,
        on_fatal: Callable[[Exception], None],
    ) -> ServedModel:
        self.go.wait(60)
        self.loaded.append(folder)
        return self._load(folder, settings, devices, on_fatal)


@pytest.fixture
def paused_loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[PausedLoading]:
    paused_loading = PausedLoading(monkeypatch)
    yield paused_loading
    paused_loading.go.set()


def test_it_is_alive_while_a_checkpoint_loads_and_ready_when_it_has(
    paused_loading: PausedLoading, weights: Path, clip: bytes
) -> None:
    with listening(create_app(Settings(models=weights))) as client:
        assert client.get("/healthz").json() == {"status": "alive"}
        wait_until(lambda: list(statuses(client)) == ["avdigits", "strict"])
        assert set(statuses(client).values()) == {"loading"}
        for response in (
            client.get("/readyz"),
            client.get("/v1/models/avdigits"),
            client.post(CLASSIFY, files={"clip": clip}),
        ):
            assert response.status_code == 503
            assert "is being loaded" in problem(response)["detail"]
            assert int(response.headers["Retry-After"]) >= 1
        paused_loading.go.set()
        until_ready(client)
        assert client.get("/readyz").json()["status"] == "ready"
        assert client.post(CLASSIFY, files={"clip": clip}).status_code == 200
        wait_until(lambda: set(statuses(client).values()) == {"ready"})


def test_it_can_be_stopped_while_it_loads(paused_loading: PausedLoading, weights: Path) -> None:
    ready: list[bool] = []
    before = engines()
    app = create_app(Settings(models=weights), on_ready=lambda: ready.append(True))
    with listening(app) as client:
        wait_until(lambda: len(statuses(client)) == 2)
        threading.Timer(0.3, paused_loading.go.set).start()
    wait_until(lambda: engines() <= before)
    assert len(paused_loading.loaded) == 1, "a load began after the stop"
    assert not ready, "a stopped service became ready"


def engines() -> set[threading.Thread]:
    """The threads in which networks run, of all services in this process."""
    return {thread for thread in threading.enumerate() if thread.name == "scmrl-engine"}


def test_models_lists_every_checkpoint_with_what_it_takes(service: httpx.Client) -> None:
    default, strict = service.get("/v1/models").json()["models"]
    assert default.pop("path") in ("plain", "fused")
    assert default == {
        "name": "avdigits",
        "default": True,
        "status": "ready",
        "version": "0.0.1",
        "description": "Random weights, for tests.",
        "streams": ["audio", "visual"],
        "labels": list(checkpoints.LABELS),
        "steps": checkpoints.STEPS,
        "missing_streams": True,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }
    assert (strict["name"], strict["default"], strict["missing_streams"]) == (
        "strict",
        False,
        False,
    )


def test_it_changes_over_to_the_fused_path_with_the_same_answers(
    weights: Path, clip: bytes
) -> None:
    """The random network's probabilities are far from 0 and 1: they would show a difference."""
    answers = []
    for settings, path in (({"compile": "off"}, "plain"), ({"compile": "on"}, "fused")):
        with running(weights, device="cpu", **settings) as client:
            paths = {model["path"] for model in client.get("/v1/models").json()["models"]}
            assert paths == {path}
            answer = client.post(CLASSIFY, files={"clip": clip}).json()
            answers.append([entry["probability"] for entry in answer["probabilities"]])
    assert answers[0] == pytest.approx(answers[1], abs=1e-4)
    with running(weights, device="cpu") as client:
        wait_until(
            lambda: {m["path"] for m in client.get("/v1/models").json()["models"]} == {"fused"}
        )


def test_a_busy_event_loop_passes_pythons_lock_on_soon(service: httpx.Client) -> None:
    assert sys.getswitchinterval() == pytest.approx(switch_interval.SWITCH_INTERVAL_S)


def test_a_models_card_is_its_file(service: httpx.Client, weights: Path) -> None:
    card = service.get("/v1/models/strict").json()
    assert card == checkpoint.read_card(weights / "strict").model_dump(mode="json")
    assert re.fullmatch("[0-9a-f]{64}", card["sha256"])


PAGES = ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/v1/models", "/v1/models/strict",
         "/v2", "/v2/models", "/v2/health/live", "/v2/health/ready",
         "/docs/static/swagger-ui.css", "/docs/", "/nowhere", "/v1/models/nobody")  # fmt: skip


def test_head_is_get_without_the_body(service: httpx.Client) -> None:
    """Of every route that takes GET."""
    described = service.get("/openapi.json").json()["paths"].items()
    plain = {path for path, operations in described if "get" in operations and "{" not in path}
    assert plain <= set(PAGES)
    for path in PAGES:
        arguments = {"headers": {"X-Request-ID": "same"}}
        head, get = service.head(path, **arguments), service.get(path, **arguments)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        times = {"date", "last-modified"}
        kept = [{k: v for k, v in x.headers.items() if k not in times} for x in (head, get)]
        assert kept[0] == kept[1], path
    assert service.head("/metrics").status_code == 200
    assert service.head(CLASSIFY).status_code == 405
    output = service.get("/metrics").text
    assert re.search(r'scmrl_requests_total\{method="HEAD",.*route="/readyz"', output)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/classify/", "/v1/classify"),
        ("/v1/models/strict/?a=b%26c", "/v1/models/strict"),
        ("/docs/", "/docs"),
        ("/v2/models/strict/infer//", "/v2/models/strict/infer"),
        ("/models/", "/v1/models"),
        ("/models/strict/classify", "/v1/models/strict/classify"),
        ("/models/strict/infer", "/v2/models/strict/infer"),
        ("/nowhere/", None),
        ("/v1/v1/nowhere", None),
        ("//evil.example/", None),
    ],
)
def test_a_path_that_is_nearly_right_is_named(
    service: httpx.Client, path: str, meant: str | None
) -> None:
    """Not redirected: a client would send its clip twice."""
    response = service.post(str(service.base_url).rstrip("/") + path, content=b"clip")
    assert response.status_code == 404
    answer = response.json()
    detail = answer["error" if path.startswith("/v2") else "detail"]
    path = path.partition("?")[0]
    if meant is None:
        assert detail == f"No such path: {path}; see /docs."
    else:
        assert detail == f"No such path: {path}; did you mean {meant}? See /docs."
        assert service.post(meant).status_code != 404


@pytest.mark.parametrize("twice", ["/v1", "/v2"])
@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/strict/classify", "/v1/stream", "/v2", "/v2/models/strict"]
)
def test_a_path_below_two_versions_is_named_with_the_address_to_use(
    service: httpx.Client, twice: str, path: str
) -> None:
    """As of clients whose address of the service ends in /v1 or /v2."""
    response = service.get(twice + path)
    assert response.status_code == 404
    answer = response.json()
    assert answer["error" if path.startswith("/v2") else "detail"] == (
        f"No such path: {twice}{path}; did you mean {path}? "
        "The address of the service, as clients take it, is without /v1 and /v2."
    )


def test_the_description_holds_behind_a_proxy_that_strips_a_prefix(service: httpx.Client) -> None:
    page = service.get("/docs").text
    (described,) = re.findall(r"url: '([^']+)'", page)
    page_url = httpx.URL("https://proxy.example/a/b/docs").join(described)
    assert page_url.path == "/a/b/openapi.json"
    (server,) = service.get("/openapi.json").json()["servers"]
    assert page_url.join(server["url"]).path == "/a/b/"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/nobody", 404),
        ("GET", "/v1/models/../secrets", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/docs/static/nothing.js", 404),
        ("GET", CLASSIFY, 405),
        ("DELETE", "/v1/models", 405),
    ],
)
def test_what_is_not_there_is_a_problem_document(
    service: httpx.Client, method: str, path: str, status: int
) -> None:
    response = service.request(method, path)
    assert response.status_code == status
    problem(response)


def test_the_docs_need_nothing_from_elsewhere(service: httpx.Client) -> None:
    page = service.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", page.text)
    names = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(names) >= 3
    for name in names:
        assert service.get(str(httpx.URL("/docs").join(name))).status_code == 200
    assert 'href="docs"' in service.get("/").text


def test_the_description_is_whole(service: httpx.Client) -> None:
    described = service.get("/openapi.json").json()
    assert described["openapi"].startswith("3.")
    assert {"title", "version"} <= set(described["info"])
    assert "`application/problem+json`" in described["info"]["description"]
    assert 'files={"clip": clip}' in described["info"]["description"]
    for reference in references(described):
        node: Any = described
        for key in reference.removeprefix("#/").split("/"):
            node = node[key]
    for path in (CLASSIFY, "/v1/models/{name}/classify"):
        operation = described["paths"][path]["post"]
        assert "`clip` or `audio` for sound" in operation["requestBody"]["description"]
        form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert set(form["properties"]) == {
            "clip", "video", "audio", "frames", "events", "audio_events", "steps", "top_k",
            "attention", "class_activation", "contributions", "abstain_below", "abstain_beyond",
            "diagnostics", "degrade", "steps_trace", "exit_margin", "visual",
        }  # fmt: skip
        assert {"200", "400", "404", "408", "413", "415", "422", "503", "504"} == set(
            operation["responses"]
        )
    for path, operations in described["paths"].items():
        errors = "application/json" if path.startswith("/v2") else "application/problem+json"
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == [errors]


def test_the_description_has_the_open_inference_protocol(service: httpx.Client) -> None:
    described = service.get("/openapi.json").json()
    paths = described["paths"]
    for end in ("", "/config", "/ready", "/infer"):
        plain = next(iter(paths["/v2/models/{name}" + end].values()))
        versioned = next(iter(paths["/v2/models/{name}/versions/{version}" + end].values()))
        assert versioned["responses"] == plain["responses"]
        assert {each["name"] for each in versioned["parameters"]} == {
            "version", *(each["name"] for each in plain["parameters"])
        }  # fmt: skip
        error = plain["responses"]["404"]["content"]["application/json"]["schema"]["$ref"]
        assert error.endswith("/InferenceError")
    body = paths["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "application/octet-stream"}
    assert all("schema" in content for content in body.values()), "generators of clients need it"
    assert service.get("/openapi.json").json() == described, "each time"


def test_operations_have_short_ids_that_stay(service: httpx.Client) -> None:
    """Generators of clients name their functions by them."""
    paths = service.get("/openapi.json").json()["paths"]
    v2_model = {"v2_model", "v2_config", "v2_model_ready", "v2_infer"}
    ids = [each["operationId"] for path in paths.values() for each in path.values()]
    assert sorted(ids) == sorted(
        {
            "classify", "classify_with", "classify_batch", "classify_batch_with", "models", "card",
            "healthz", "readyz", "v2_server", "v2_live", "v2_ready", "v2_models", "v2_index",
            *v2_model, *(f"{each}_version" for each in v2_model),
        }
    )  # fmt: skip


def test_the_description_states_the_largest_number_of_steps_that_is_set(weights: Path) -> None:
    for most in (8, MAX_STEPS):
        paths = create_app(Settings(models=weights, max_steps=most)).openapi()["paths"]
        for path in (CLASSIFY, "/v1/models/{name}/classify"):
            form = paths[path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
            assert form["properties"]["steps"]["maximum"] == most


def references(part: Any) -> Iterator[str]:
    """Every $ref in a description."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from references(inner)


def test_an_answer_has_the_fields_that_the_description_shows(
    service: httpx.Client, clip: bytes
) -> None:
    output = service.get("/openapi.json").json()["components"]["schemas"]["Classification"]
    values = {
        "contributions": "leave_one_out", "diagnostics": "true", "steps_trace": "true",
        "exit_margin": "0.5", "class_activation": "grid",
    }  # fmt: skip
    answer = service.post(CLASSIFY, files={"clip": clip}, data=values).json()
    answer["out_of_domain"] = 0.6  # this checkpoint has no reference
    assert set(answer) == set(output["properties"])
    assert set(answer) == set(output["examples"][0])


def test_a_full_service_says_so_at_once_and_has_room_again(weights: Path, clip: bytes) -> None:
    app = create_app(Settings(models=weights, queue_length=1))
    with listening(app) as client:
        until_ready(client)
        model = app.state.scmrl.registry.get("avdigits")
        with model.batcher.slot():
            refused = client.post(CLASSIFY, files={"clip": clip})
            assert client.get("/readyz").status_code == 200
        assert refused.status_code == 503
        assert problem(refused)["type"] == "urn:scmrl:error:full"
        assert int(refused.headers["Retry-After"]) >= 1
        assert client.post(CLASSIFY, files={"clip": clip}).status_code == 200


def test_an_answer_that_is_late_is_504(weights: Path, clip: bytes) -> None:
    with running(weights, request_deadline_s=0.001) as client:
        response = client.post(CLASSIFY, files={"clip": clip})
    assert response.status_code == 504
    assert "0.001 s" in problem(response)["detail"]


def test_a_client_that_has_gone_leaves_its_place(
    weights: Path, clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "scmrl")
    app = create_app(Settings(models=weights, queue_length=1))
    with listening(app) as client:
        until_ready(client)
        with pytest.raises(httpx.ReadTimeout):
            client.post(
                CLASSIFY,
                files={"clip": clip},
                data={"steps": "64"},  # takes long
                headers={"X-Request-ID": "impatient"},
                timeout=httpx.Timeout(10, read=0.05),
            )
        assert " 499 " in logged(caplog, "id=impatient")
        assert app.state.scmrl.registry.get("avdigits").batcher.in_flight == 0
        assert client.post(CLASSIFY, files={"clip": clip}).status_code == 200


def test_readyz_reports_a_worker_that_died(weights: Path, clip: bytes) -> None:
    app = create_app(Settings(models=weights))
    with listening(app) as client:
        until_ready(client)
        app.state.scmrl.registry.get("avdigits").batcher.stop()
        response = client.get("/readyz")
        assert response.status_code == 503
        assert "worker" in problem(response)["detail"]
        assert client.get("/healthz").status_code == 200
        assert client.post(CLASSIFY, files={"clip": clip}).status_code == 503
