"""The JavaScript client in Node, against a running service."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.service.conftest import CLIPS

NODE = shutil.which("node")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NODE is None, reason="needs node, version 18 or later"),
]


@pytest.fixture(scope="module")
def checks(service: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script of checks, beside the client as the service serves it."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "client.mjs").write_bytes(service.get("/page/client.js").content)
    return Path(shutil.copy(Path(__file__).with_name("client_checks.mjs"), folder))


def node(checks: Path, check: str, client: httpx.Client | None = None, *options: str) -> str:
    """Run one check."""
    url = str(client.base_url) if client is not None else ""
    clip = str(CLIPS / "digit-7.webm")
    done = run(*options, checks, check, url, clip)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(NODE), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def websocket_options() -> list[str]:
    """Return the options of Node with which it has a WebSocket; skip where it has none."""
    has = "process.exit(typeof WebSocket === 'function' ? 0 : 1)"
    for options in ([], ["--experimental-websocket"]):
        if run(*options, "-e", has).returncode == 0:
            return options
    pytest.skip("this node has no WebSocket (20 has, by an option; 22 has)")


def test_it_classifies(checks: Path, service: httpx.Client, clip: bytes) -> None:
    label = node(checks, "classify", service)
    files = {"clip": (CLIPS / "digit-7.webm").read_bytes()}
    url = "/v1/models/strict/classify"
    assert (
        label == service.post(url, files=files, data={"steps": "2"}).json()["prediction"]["label"]
    )


def test_errors_say_what_the_problem_document_says(checks: Path, service: httpx.Client) -> None:
    node(checks, "errors", service)


def test_it_sends_its_key_and_waits_as_long_as_it_is_told(
    checks: Path, keyed: httpx.Client
) -> None:
    node(checks, "keys", keyed)


def test_it_streams(checks: Path, service: httpx.Client) -> None:
    node(checks, "stream", service, *websocket_options())


def test_a_refused_stream_says_why(checks: Path, keyed: httpx.Client) -> None:
    node(checks, "streamKeys", keyed, *websocket_options())


def test_the_curl_line_is_quoted(checks: Path) -> None:
    node(checks, "curl")
