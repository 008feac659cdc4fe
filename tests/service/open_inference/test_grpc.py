"""gRPC: keys, limits, cancellation, health and the log, as over HTTP."""

from __future__ import annotations

import gzip
import importlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import ROOT
from tests.service.open_inference.test_clients import free_port
from tests.service.running_server import listening, until_ready, wait_until
from tests.service.scraped import scrape

grpc = pytest.importorskip("grpc", reason="needs the extra grpc")
messages: Any = importlib.import_module("service.grpc_api.messages")

pytestmark = pytest.mark.slow

KEY = "anna-q7Zt4mXv9RkB2wLc8NpY"
OTHER = "bert-q7Zt4mXv9RkB2wLc8NpY"
AUTHORIZED = (("authorization", f"Bearer {KEY}"), ("x-request-id", "mine"))
INFER = "ModelInfer"
SERVICE = "inference.GRPCInferenceService"
MAX_BYTES = 1 << 20


class Stub:
    """Calls methods by their names, on a channel of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def method(self, name: str, service: str = SERVICE) -> Any:
        package = service.rpartition(".")[0]
        response = {"Check": "HealthCheckResponse", "Watch": "HealthCheckResponse"}.get(
            name, f"{name}Response"
        )
        kind = self.channel.unary_stream if name == "Watch" else self.channel.unary_unary
        return kind(
            f"/{service}/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=messages.message(f"{package}.{response}").FromString,
        )

    def infer(self, request: Any, metadata: Any = AUTHORIZED, **options: Any) -> Any:
        return self.method(INFER)(request, metadata=metadata, timeout=60, **options)


@pytest.fixture(scope="module")
def service(weights: Path) -> Iterator[tuple[httpx.Client, Stub]]:
    """A service with keys, of which one has four clips per minute, and small limits."""
    port = free_port()
    settings = Settings(
        models=weights, compile="off", grpc_port=port, max_body_bytes=MAX_BYTES,
        max_file_bytes=MAX_BYTES // 2, api_keys=f"anna:{KEY},bert:{OTHER}:4",
    )  # fmt: skip
    with listening(create_app(settings)) as client:
        until_ready(client)
        client.headers["Authorization"] = f"Bearer {KEY}"
        stub = Stub(port)
        yield client, stub
        stub.channel.close()


def request(*clips: bytes, **members: Any) -> Any:
    message = messages.message("ModelInferRequest")(model_name="avdigits", **members)
    clip = message.inputs.add(name="clip", datatype="BYTES", shape=[len(clips), 1])
    clip.contents.bytes_contents.extend(clips)
    return message


def refused(call: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def test_a_clip_is_answered_and_logged_as_a_request(
    service: tuple[httpx.Client, Stub], clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client, stub = service
    caplog.set_level(logging.INFO, "scmrl.access")
    message = request(clip, clip)
    message.parameters["steps"].int64_param = 2
    message.outputs.add(name="label")
    response, call = stub.method(INFER).with_call(message, metadata=AUTHORIZED)
    assert response.model_version == "0.0.1"
    assert (response.id, dict(call.initial_metadata())["x-request-id"]) == ("mine", "mine")
    assert [output.name for output in response.outputs] == ["label"]
    assert list(response.outputs[0].shape) == [2, 1]
    route = f"/inference.GRPCInferenceService/{INFER}"
    labels = {"route": route, "model": "avdigits", "status": "200"}
    wait_until(lambda: scrape(client).total("scmrl_requests_total", **labels) == 1)
    (line,) = [each.message for each in caplog.records if route in each.message]
    assert "200" in line


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"model_name": "nobody"}, "NOT_FOUND", "available: avdigits, strict"),
        ({"model_version": "9"}, "NOT_FOUND", "has the version 0.0.1"),
        ({"raw_input_contents": [b"", b""]}, "INVALID_ARGUMENT", "1 inputs, but 2"),
        ({"raw_input_contents": [b"\xff\0\0\0a"]}, "INVALID_ARGUMENT", "longer than what was sent"),
        ({"clips": [b"Dear diary"]}, "INVALID_ARGUMENT", "mp4, mov, webm"),
        ({"clips": [bytes(MAX_BYTES // 2 + 1)]}, "INVALID_ARGUMENT", "a file has at most"),
        ({"datatype": "FP64"}, "INVALID_ARGUMENT", "not one of BYTES"),
    ],
)
def test_errors_have_their_status_and_detail(
    service: tuple[httpx.Client, Stub], clip: bytes, change: dict[str, Any], code: str, message: str
) -> None:
    datatype = change.pop("datatype", "BYTES")
    wrong = request(*change.pop("clips", [clip]))
    wrong.inputs[0].datatype = datatype
    wrong.MergeFrom(messages.message("ModelInferRequest")(**change))
    error = refused(lambda: service[1].infer(wrong))
    assert error.code().name == code
    assert message in error.details()


def test_a_message_beyond_the_limit_is_refused_also_where_it_is_compressed(
    service: tuple[httpx.Client, Stub],
) -> None:
    zeros = request(bytes(8 * MAX_BYTES))
    assert len(gzip.compress(zeros.SerializeToString())) < MAX_BYTES // 8
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        error = refused(lambda c=compression: service[1].infer(zeros, compression=c))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert service[1].method("ServerLive")(messages.message("ServerLiveRequest")()).live


@pytest.mark.parametrize("name", ["ModelInfer", "ModelReady", "Check", "Watch"])
def test_a_message_of_something_else_is_an_error_of_the_client(
    service: tuple[httpx.Client, Stub], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """No bug is reported and nothing is logged as one, also without a key."""
    _, stub = service
    package = "grpc.health.v1.Health" if name in ("Check", "Watch") else SERVICE
    kind = stub.channel.unary_stream if name == "Watch" else stub.channel.unary_unary
    method = kind(f"/{package}/{name}")
    error = refused(lambda: list(method(b"\xff" * 20, metadata=AUTHORIZED, timeout=60)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("The message cannot be read: ")
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


def test_keys_and_their_limits_are_those_of_http(
    service: tuple[httpx.Client, Stub], clip: bytes
) -> None:
    client, stub = service
    error = refused(lambda: stub.infer(request(clip), metadata=()))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "Authorization: Bearer" in error.details()
    limited = (("authorization", f"Bearer {OTHER}"),)
    small = request(clip)
    small.inputs[0].shape[:] = [5]
    small.inputs[0].contents.bytes_contents.extend([clip] * 4)
    assert list(stub.infer(small, metadata=limited).outputs[0].shape) == [5, 10]
    error = refused(lambda: stub.infer(request(clip), metadata=limited))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    pushback = dict(error.trailing_metadata())["grpc-retry-pushback-ms"]
    assert 20_000 < int(pushback) <= 30_000
    over_http = client.get("/v1/models", headers={"Authorization": f"Bearer {OTHER}"})
    assert over_http.status_code == 429, "one limit for both"
    for name in ("ServerLive", "ServerReady"):
        assert stub.method(name)(messages.message(f"{name}Request")()).ListFields()
    index = messages.message("RepositoryIndexRequest")()
    error = refused(lambda: stub.method("RepositoryIndex")(index))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_cancelled_call_leaves_nothing_behind(
    service: tuple[httpx.Client, Stub], clip: bytes
) -> None:
    client, stub = service
    call = stub.method(INFER).future(request(*[clip] * 20), metadata=AUTHORIZED)
    wait_until(lambda: scrape(client).total("scmrl_requests_in_flight") > 0)
    call.cancel()
    wait_until(lambda: scrape(client).total("scmrl_requests_in_flight") == 0)
    route = f"/inference.GRPCInferenceService/{INFER}"
    gone = {"route": route, "status": "499"}
    wait_until(lambda: scrape(client).total("scmrl_requests_total", **gone) == 1)
    runs = scrape(client).total("scmrl_stage_seconds_count", stage="inference", model="avdigits")
    time.sleep(0.2)
    later = scrape(client).total("scmrl_stage_seconds_count", stage="inference", model="avdigits")
    assert later == runs


def test_the_health_service_says_what_readyz_does(service: tuple[httpx.Client, Stub]) -> None:
    stub, health = service[1], "grpc.health.v1.Health"
    check = messages.message("grpc.health.v1.HealthCheckRequest")
    for name in ("", "inference.GRPCInferenceService"):
        assert stub.method("Check", health)(check(service=name)).status == 1
    error = refused(lambda: stub.method("Check", health)(check(service="other")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.method("Watch", health)(check())
    assert next(watch).status == 1
    watch.cancel()


def test_the_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="needs grpcio-tools")
    folder = ROOT / "service" / "grpc_api"
    written = tmp_path / "protos.binpb"
    files = ("open_inference.proto", "health.proto")
    assert protoc.main(["", f"-I{folder}", f"--descriptor_set_out={written}", *files]) == 0
    assert (folder / "protos.binpb").read_bytes() == written.read_bytes(), "run make protos"


def test_a_port_that_is_in_use_ends_the_start(service: tuple[httpx.Client, Stub]) -> None:
    failures: list[Exception] = []
    settings = Settings(models=Path("/nowhere"), grpc_port=service[1].port)
    with listening(create_app(settings, on_failure=failures.append)):
        wait_until(lambda: bool(failures))
    assert "SCMRL_GRPC_PORT" in str(failures[0])
