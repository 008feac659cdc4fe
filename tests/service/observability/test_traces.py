"""Traces, as a collector receives them over OTLP."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.app import create_app
from service.observability import traces
from service.settings import Settings
from tests.service.running_server import listening, until_ready, wait_until

CLASSIFY = "/v1/classify"
STAGES = ["decode_wait", "decode", "preprocess", "queue", "inference", "explain"]


class Collector:
    """An OTLP collector on a port of its own: what it was sent."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.paths.add(self.path)
                outer.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def trace(self, request_id: str) -> tuple[Span, dict[str, Span]]:
        """A request's span and its stages' by name, once they have come."""

        def received() -> list[Span]:
            return [s for s in self.spans if attributes(s).get("scmrl.request_id") == request_id]

        wait_until(lambda: bool(received()))
        (server,) = received()
        within = [span for span in self.spans if span.parent_span_id == server.span_id]
        assert all(span.trace_id == server.trace_id for span in within)
        return server, {span.name: span for span in within}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        collector.server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: Collector, weights: Path) -> Iterator[httpx.Client]:
    """A service that was asked for traces in the standard way."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        environment.setenv("NO_PROXY", "127.0.0.1")
        app = create_app(Settings(models=weights, compile="off"))
        with listening(app) as client:
            until_ready(client)
            yield client


def attributes(span: Span) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, str(pair.value.WhichOneof("value")))
        for pair in span.attributes
    }


def milliseconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6


def test_a_request_is_a_span_with_one_for_each_stage_within(
    traced: httpx.Client, collector: Collector, clip: bytes
) -> None:
    answer = traced.post(CLASSIFY, files={"clip": clip}, data={"steps": "2"}).json()
    server, stages = collector.trace(answer["id"])
    assert server.name == f"POST {CLASSIFY}"
    assert server.kind == Span.SPAN_KIND_SERVER
    server_attributes = attributes(server)
    assert (server_attributes["http.request.method"], server_attributes["http.route"]) == (
        "POST",
        CLASSIFY,
    )
    assert server_attributes["http.response.status_code"] == 200
    assert server.status.code == Status.STATUS_CODE_UNSET

    assert sorted(stages) == sorted(STAGES)
    for stage, span in stages.items():
        work = attributes(span)
        assert (work["scmrl.model"], work["scmrl.steps"]) == ("avdigits", 2)
        assert work["scmrl.batch_size"] == 1
        assert server.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= server.end_time_unix_nano
        if stage in answer["timing_ms"]:
            assert milliseconds(span) == pytest.approx(answer["timing_ms"][stage], abs=0.01)
    in_time = sorted(stages.values(), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in in_time] == STAGES
    for earlier, later in pairwise(in_time):
        overlap = earlier.end_time_unix_nano - later.start_time_unix_nano
        assert overlap < 10_000, "ns, of rounding"
    assert collector.paths == {"/v1/traces"}


def test_the_trace_is_the_callers_and_the_log_names_it(
    traced: httpx.Client, collector: Collector, clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "scmrl")
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{trace}-{parent}-01", "X-Request-ID": "within"}
    traced.post(CLASSIFY, files={"clip": clip}, headers=headers)
    server, _ = collector.trace("within")
    assert server.trace_id.hex() == trace
    assert server.parent_span_id.hex() == parent
    (line,) = [message for message in caplog.messages if "id=within" in message]
    assert f"trace_id='{trace}'" in line


def test_what_the_caller_does_not_sample_is_not_sent(
    traced: httpx.Client, collector: Collector
) -> None:
    trace = "5bf92f3577b34da6a3ce929d0e0e4736"
    traced.get("/v1/models", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-00"})
    sampled_id = traced.get("/v1/models").headers["X-Request-ID"]
    collector.trace(sampled_id)
    assert trace not in {span.trace_id.hex() for span in collector.spans}


def test_a_refusal_has_its_error_and_where_it_happened(
    traced: httpx.Client, collector: Collector
) -> None:
    body = traced.post(CLASSIFY, files={"clip": b"not a clip, " * 20}).json()
    server, stages = collector.trace(body["id"])
    assert attributes(server)["error.type"] == "unknown-format"
    assert attributes(server)["http.response.status_code"] == 415
    assert server.status.code == Status.STATUS_CODE_UNSET, "a client's mistake is no failure"
    assert list(stages) == ["decode"]
    assert stages["decode"].status.code == Status.STATUS_CODE_ERROR


def test_uploads_and_headers_are_in_no_span(
    traced: httpx.Client, collector: Collector, clip: bytes
) -> None:
    response = traced.post(
        f"{CLASSIFY}?key=my-secret",
        files={"clip": ("my-secret.mp4", clip)},
        headers={"Authorization": "my-secret"},
    )
    collector.trace(response.json()["id"])
    assert all(b"my-secret" not in r.SerializeToString() for r in collector.requests)


def test_supervisors_leave_no_spans(traced: httpx.Client, collector: Collector) -> None:
    responses = [traced.get(path) for path in ("/healthz", "/readyz", "/metrics")]
    assert {response.status_code for response in responses} == {200}
    collector.trace(traced.get("/v1/models").headers["X-Request-ID"])
    traced_ids = {attributes(span).get("scmrl.request_id") for span in collector.spans}
    assert not {response.headers["X-Request-ID"] for response in responses} & traced_ids


def test_the_service_has_a_name_and_a_version_that_the_environment_may_replace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traces, "_STOP_S", 60)
    for variables, name in (({}, "scmrl"), ({"OTEL_SERVICE_NAME": "mine"}, "mine")):
        with collecting() as collector:
            environment = {"OTEL_TRACES_EXPORTER": "otlp", **variables}
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.endpoint}/mine")
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            recorder = traces.from_environment("1.2.3", environment)
            assert recorder is not None
            recorder._tracer.start_span("one").end()
            recorder.stop()
            (request,) = collector.requests
            assert collector.paths == {"/mine"}
        values = {
            a.key: a.value.string_value for a in request.resource_spans[0].resource.attributes
        }
        assert (values["service.name"], values["service.version"]) == (name, "1.2.3")


def test_a_collector_that_does_not_answer_is_not_waited_for_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(traces, "_STOP_S", 0.1)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as collector:
        endpoint = f"http://127.0.0.1:{collector.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        recorder = traces.from_environment("1.2.3", {"OTEL_TRACES_EXPORTER": "otlp"})
        assert recorder is not None
        recorder._tracer.start_span("one").end()
        recorder.stop()
        assert "the collector has not answered within 0.1 s" in caplog.text


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SERVICE_NAME": "mine"},
    ],
)
def test_by_default_there_are_no_traces_and_nothing_is_imported(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)  # importing it would raise
    assert traces.from_environment("1", environment) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "can be http/protobuf only",
        ),
    ],
)
def test_an_unsupported_exporter_is_logged(
    environment: dict[str, str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert traces.from_environment("1", environment) is None
    assert message in caplog.text


@pytest.mark.slow
def test_without_the_extra_a_warning_is_logged_and_the_service_starts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with listening(create_app(Settings(models="/nowhere"))) as client:
        assert client.get("/healthz").status_code == 200
    assert "OTEL_EXPORTER_OTLP_ENDPOINT enables traces" in caplog.text
    assert "pip install 'scmrl[otel]'" in caplog.text
