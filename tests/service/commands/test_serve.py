"""`scmrl serve` in a process of its own: what an operator and a supervisor see of it."""

from __future__ import annotations

import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from typer.testing import CliRunner

from service.commands import serve as serving
from service.commands.app import app
from service.commands.serve import run
from service.setting_names import flag, off_flag, variable
from service.settings import Settings
from tests.conftest import ROOT
from tests.service.inference.test_registry import damage
from tests.service.process import WITHIN_S, Serve
from tests.service.running_server import wait_until

#: The settings that are on or off.
SWITCHES = [name for name, field in Settings.model_fields.items() if field.annotation is bool]


def test_the_printed_command_works_and_a_signal_ends_the_service(
    serve: type[Serve], weights: Path
) -> None:
    service = serve("--models", weights, "--port", 0)
    address = service.address()
    assert httpx.get(f"{address}/readyz").status_code == 200
    (line,) = [x.strip() for x in service.shown.splitlines() if x.strip().startswith("curl")]
    assert line == f"curl -F clip=@tests/data/clips/digit-7.webm {address}/v1/classify"
    if shutil.which("curl"):
        completed = subprocess.run(
            [*shlex.split(line), "--noproxy", "*"], cwd=ROOT, capture_output=True, check=True
        )
        assert b'"prediction"' in completed.stdout
    assert service.stop() == 0
    assert "SIGTERM: the service is shutting down; requests in flight: 0" in service.logged
    assert "Traceback" not in service.logged


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_requests_in_flight_at_shutdown_are_answered(
    serve: type[Serve], weights: Path, clip: bytes, how: signal.Signals
) -> None:
    service = serve(SCMRL_MODELS=str(weights), SCMRL_PORT="0")
    url = httpx.URL(service.address())
    request = httpx.Request("POST", url.join("/v1/classify"), files={"clip": clip})
    headers = [f"{name}: {value}" for name, value in request.headers.items()]
    head = "\r\n".join(["POST /v1/classify HTTP/1.1", *headers, "Expect: 100-continue", "", ""])
    at = (str(url.host), url.port or 80)
    with socket.create_connection(at, timeout=WITHIN_S) as caller:
        caller.sendall(head.encode())
        assert b"100 Continue" in caller.recv(1000), "the request is in"
        service.process.send_signal(how)
        wait_until(lambda: httpx.get(url.join("/readyz")).status_code == 503)
        late = httpx.post(url.join("/v1/classify"), files={"clip": clip})
        assert (late.status_code, late.json()["type"]) == (503, "urn:scmrl:error:stopping")
        assert late.headers["Retry-After"]
        assert httpx.get(url.join("/healthz")).status_code == 200
        caller.sendall(request.read())
        answer = caller.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"prediction"' in answer
    assert service.code() == 0
    assert "Traceback" not in service.logged


def test_a_damaged_checkpoint_ends_the_start_and_names_the_file(
    serve: type[Serve], weights: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(weights, tmp_path / "weights")
    damage(copied / "avdigits")
    service = serve("--models", copied, "--port", 0)
    assert service.code() == 1
    last = service.logged.splitlines()[-1]
    assert last.startswith("scmrl serve: ")
    assert str(copied / "avdigits" / "card.json") in last
    assert "sha256" in last
    assert "Traceback" not in service.logged
    assert not service.shown


def test_invalid_settings_are_named_by_flag_and_variable(serve: type[Serve]) -> None:
    service = serve(
        "--queue-length", 0, "--shutdown-grace-s", "inf", "--decode-memory-mib", 99999999999999,
        "--device", "abacus", SCMRL_MAX_BATCH="many",
    )  # fmt: skip
    assert service.code() == 2
    output = service.logged
    assert "--queue-length (SCMRL_QUEUE_LENGTH)" in output
    assert "--max-batch (SCMRL_MAX_BATCH)" in output
    assert "a number, 0 to 86400 s" in output
    assert "a whole number, 64 to 1048576 MiB" in output
    assert "--device (SCMRL_DEVICE): no such device: 'abacus'; choose auto, cpu, cuda" in output
    assert "Traceback" not in output
    assert serve("--prot", 80).code() == 2


def test_a_model_of_ones_own_is_not_tried_with_a_clip_of_digits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving._greet(listener, False, Settings(default_model="mine"))
    assert "-F clip=@CLIP.mp4 " in capsys.readouterr().out


def test_one_port_for_http_and_grpc_is_refused(serve: type[Serve]) -> None:
    service = serve("--port", 18000, "--grpc-port", 18000)
    assert service.code() == 2
    assert "--grpc-port (SCMRL_GRPC_PORT) is 18000, and so is --port" in service.logged


@pytest.mark.parametrize("name", SWITCHES)
def test_what_is_on_or_off_can_be_set_either_way(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[Settings] = []
    monkeypatch.setattr(serving, "run", lambda settings, _: chosen.append(settings) or 0)
    monkeypatch.setenv(variable(name), "true")
    assert CliRunner().invoke(app, ["serve", off_flag(name)]).exit_code == 0
    monkeypatch.setenv(variable(name), "false")
    assert CliRunner().invoke(app, ["serve", flag(name)]).exit_code == 0
    assert [getattr(settings, name) for settings in chosen] == [False, True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_missing_device_is_reported_as_a_setting(
    serve: type[Serve], weights: Path, device: str
) -> None:
    service = serve("--models", weights, "--port", 0, "--device", device, SCMRL_MAX_BACTH="16")
    assert service.code() == 2
    assert "did you mean SCMRL_MAX_BATCH?" in service.logged
    last = service.logged.splitlines()[-1]
    assert last.startswith(f"scmrl serve: --device (SCMRL_DEVICE): device {device}: ")
    assert "no CUDA" in last
    assert "Traceback" not in service.logged


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize("when", ["at once", "while it loads"])
def test_a_signal_during_the_start_ends_it_cleanly(
    serve: type[Serve], weights: Path, when: str, signals: int
) -> None:
    """Two signals, as a process gets whose parent passes on what the whole group got."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = serve("--models", weights, "--port", port, module="tests.service.slow")
    if when == "at once":
        wait_until(lambda: "imports" in service.shown)
    else:
        wait_until(lambda: answers(port))
    for _ in range(signals):
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    began = time.monotonic()
    assert service.code() == 0
    assert time.monotonic() - began < 60, "it waited for what it loads"
    assert "Traceback" not in service.logged
    assert "ready" not in service.shown


def test_a_hangup_does_not_end_the_service(serve: type[Serve], weights: Path) -> None:
    service = serve("--models", weights, "--port", 0)
    address = service.address()
    service.process.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    assert httpx.get(f"{address}/readyz").status_code == 200
    assert service.stop() == 0


def test_a_hangup_during_the_start_does_not_end_the_service(
    serve: type[Serve], weights: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = serve("--models", weights, "--port", port, module="tests.service.slow")
    wait_until(lambda: "imports" in service.shown)
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: answers(port))
    service.process.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    assert answers(port)
    assert service.stop() == 0


def answers(port: int) -> bool:
    """Whether a service is alive at this port."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def test_keep_alive_is_as_long_as_the_setting(serve: type[Serve], weights: Path) -> None:
    assert Settings().keep_alive_s > 60, "load balancers keep theirs for 60 s"
    service = serve("--models", weights, "--port", 0, "--keep-alive-s", 1)
    url = httpx.URL(service.address())
    with socket.create_connection((str(url.host), url.port or 80), timeout=WITHIN_S) as caller:
        caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b'"alive"' in caller.makefile("rb").read(), "it was closed by the service"
    assert service.stop() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "example.invalid"])
def test_an_address_that_others_reach_needs_keys_or_a_waiver(
    host: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.logs, "configure", lambda level, shape: None)
    assert run(Settings(models="/nowhere", host=host, port=0)) == 2
    output = capfd.readouterr().err
    for way_out in ("SCMRL_API_KEYS", "--host 127.0.0.1", "SCMRL_ALLOW_ANONYMOUS"):
        assert way_out in output
    admin = Settings(models="/nowhere", host=host, admin_key="q7Zt4mXv9RkB2wLc8NpY")
    assert run(admin) == 2, "an admin key is not asked of those who classify"


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"host": "0.0.0.0"}, 2),
        ({"host": "0.0.0.0", "allow_anonymous": True}, 1),
        ({"host": "0.0.0.0", "api_keys": "anna:q7Zt4mXv9RkB2wLc8NpY"}, 1),
        ({"host": "127.0.0.1"}, 1),
        ({"host": "127.8.8.8"}, 1),
        ({"host": "::1"}, 1),
        ({"host": "localhost"}, 1),
        ({"host": "127.0.0.1", "api_keys": "anna"}, 2),
        ({"host": "127.0.0.1", "admin_key_file": "/nowhere/key"}, 2),
    ],
)
def test_it_starts_where_that_is_safe_or_allowed(
    settings: dict[str, Any], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1: it went on to listen, which is made to fail here."""

    def refuse(host: str, port: int) -> socket.socket:
        raise OSError(98, "not now")

    monkeypatch.setattr(serving, "listen", refuse)
    monkeypatch.setattr(serving.logs, "configure", lambda level, shape: None)
    assert run(Settings(models="/nowhere", **settings)) == code


def test_keys_of_a_file_are_required_and_the_server_software_is_not_disclosed(
    serve: type[Serve], weights: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("anna:q7Zt4mXv9RkB2wLc8NpY\n")
    keys.chmod(0o604)
    arguments = ("--models", weights, "--host", "0.0.0.0", "--port", 0)
    refused = serve(*arguments)
    assert refused.code() == 2
    assert "SCMRL_API_KEYS" in refused.logged
    assert "Traceback" not in refused.logged
    service = serve(*arguments, "--api-keys-file", keys)
    address = service.address()
    assert "curl -H 'Authorization: Bearer KEY' -F clip=" in service.shown
    assert f"scmrl serve: {keys} has keys, and every user may read" in service.logged
    assert httpx.get(f"{address}/v1/models").status_code == 401
    authorization = {"Authorization": "Bearer q7Zt4mXv9RkB2wLc8NpY"}
    answer = httpx.get(f"{address}/v1/models", headers=authorization)
    assert answer.status_code == 200
    assert "server" not in answer.headers
    at = httpx.URL(address)
    with socket.create_connection((str(at.host), at.port or 80), timeout=WITHIN_S) as caller:
        caller.sendall(b"\0\0 not http\r\n\r\n")
        output = caller.makefile("rb").read().lower()
    assert output.startswith(b"http/1.1 400")
    assert not {word for word in (b"uvicorn", b"h11", b"python", b"server:") if word in output}
    assert service.stop() == 0
    assert "q7Zt4mXv9RkB2wLc8NpY" not in service.logged + service.shown
    assert "key='anna'" in service.logged


def test_a_port_in_use_is_reported_before_anything_is_loaded(
    serve: type[Serve], weights: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        service = serve("--models", weights, "--port", port)
        assert service.code() == 1
    assert f"cannot listen on 127.0.0.1:{port}" in service.logged
    assert "set SCMRL_PORT (--port)" in service.logged
    assert "--port" in service.logged
    assert "Traceback" not in service.logged
