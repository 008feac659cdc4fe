"""The JavaScript client in Node, against a running service."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from service.client import Client, ClientError, ProblemError
from service.client.stream_messages import PROTOCOL
from tests.service.client.test_retries import FULL, MODELS, QUICK, Response, Scripted
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
    completed = run(*options, checks, check, url, clip)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout.strip()


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


def test_it_classifies_several_clips_in_one_call(checks: Path, service: httpx.Client) -> None:
    node(checks, "batch", service)


def test_errors_say_what_the_problem_document_says(checks: Path, service: httpx.Client) -> None:
    node(checks, "errors", service)


def test_it_sends_its_key_and_waits_for_retry_after(checks: Path, keyed: httpx.Client) -> None:
    node(checks, "keys", keyed)


#: What servers answer, in turn.
SCRIPTS: list[list[Response]] = [
    [(500, None, None), (502, "0", None), (200, None, MODELS)],
    [FULL, None, (200, None, MODELS)],
    [(503, None, None), (503, None, None), (429, "0", None), (200, None, MODELS)],
    [(503, None, {"type": "urn:scmrl:error:model-failed", "status": 503})],
    [(503, "Wed, 21 Oct 2015 07:28:00 GMT", FULL[2] if FULL else None), (200, None, MODELS)],
    [(503, "31", None)],
    [(500, None, {"type": "urn:scmrl:error:internal", "status": 500})],
    [(422, "0", {"type": "urn:scmrl:error:unusable", "status": 422})],
    [(500, None, {"cheese": 1}), (200, None, MODELS)],
    [(504, "0", None)],
]


def outcome(server: Scripted) -> str:
    """The outcome of a request by the Python client, in the words of the check."""
    try:
        with Client(server.url, retries=QUICK) as client:
            client.models()
    except ClientError as error:
        return f"{type(error).__name__} {error.status if isinstance(error, ProblemError) else ''}"
    return "answered"


def test_it_sends_again_what_the_python_client_sends_again(checks: Path) -> None:
    """As often, and with the same outcome."""
    for_python, for_node = ([Scripted(*script) for script in SCRIPTS] for _ in range(2))
    expected = [outcome(server) for server in for_python]
    assert {"answered", "ProblemError 504"} < set(expected)
    completed = run(checks, "outcomes", "", " ".join(server.url for server in for_node))
    assert completed.stdout.strip().split(", ") == expected, completed.stderr
    for ours, theirs in zip(for_python, for_node, strict=True):
        assert ours.requests == theirs.requests
        ours.close()
        theirs.close()


@pytest.mark.parametrize(
    ("models", "error"),
    [((200, None, MODELS), "StreamClosedError 1006"), (FULL, "ProblemError 503")],
)
def test_the_handshake_of_a_stream_is_sent_again(
    checks: Path, models: Response, error: str
) -> None:
    """As often as `retries` says, also where the request that asks for the reason fails."""
    server = Scripted(*[FULL, models] * 3)
    completed = run(*websocket_options(), checks, "handshakes", server.url)
    server.close()
    assert completed.stdout.strip() == error, completed.stderr
    assert server.requests == ["/v1/stream", "/v1/models"] * 3


def test_it_streams(checks: Path, service: httpx.Client) -> None:
    node(checks, "stream", service, *websocket_options())


def test_a_refused_stream_says_why(checks: Path, keyed: httpx.Client) -> None:
    node(checks, "streamKeys", keyed, *websocket_options())


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (None, "What was received is not a live stream: is this an scmrl service?"),
        ("null", "What was received is not a live stream: is this an scmrl service?"),
        ("hello", "The answer is no JSON: is this an scmrl service?"),
    ],
)
def test_a_websocket_of_another_service_is_an_error(
    checks: Path, reply: str | None, error: str
) -> None:
    """None: one that sends back what it receives."""

    def respond(socket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            received = socket.recv()
            socket.send(received if reply is None else reply)
            socket.recv()

    with serve(respond, "127.0.0.1", 0, subprotocols=[Subprotocol(PROTOCOL)]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        done = run(*websocket_options(), checks, "noStream", url)
    assert (done.returncode, done.stdout.strip()) == (0, error), done.stderr


@pytest.mark.parametrize("shakes_hands", [True, False])
def test_a_server_that_says_nothing_is_left(checks: Path, shakes_hands: bool) -> None:
    left = threading.Event()

    def say_nothing(_: ServerConnection) -> None:
        left.wait()

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        if shakes_hands:
            server = stack.enter_context(
                serve(say_nothing, sock=listener, subprotocols=[Subprotocol(PROTOCOL)])
            )
            threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        completed = run(*websocket_options(), checks, "silent", url)
        left.set()
    assert completed.returncode == 0, completed.stderr


def test_a_signal_keeps_no_listeners(checks: Path) -> None:
    node(checks, "signal")


def test_the_curl_line_is_quoted(checks: Path) -> None:
    node(checks, "curl")
