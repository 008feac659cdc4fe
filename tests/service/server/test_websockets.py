"""WebSockets on a connection: their handshake, their frames and their end, within its limits."""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from service.server.websocket_connection import WebSocketConnection
from tests.service.running_server import wait_until
from tests.service.server.edge import GET, WITHIN_S, Client, Edge, running_edge

#: Lines of a handshake.
LINES = {
    "Host": "x",
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
TEXT, PING, PONG, CLOSE = 0x1, 0x9, 0xA, 0x8


def handshake(target: str = "/socket", **lines: str) -> bytes:
    """The head of a handshake; `lines` are added, or replace a line of LINES."""
    headers = LINES | {name.replace("_", "-"): value for name, value in lines.items()}
    head = [f"GET {target} HTTP/1.1", *(f"{n}: {value}" for n, value in headers.items()), "", ""]
    return "\r\n".join(head).encode()


def frame(opcode: int, payload: bytes) -> bytes:
    """A frame as a client sends it, masked with zeros."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + bytes(4) + payload


def read_frame(client: Client) -> tuple[int, bytes]:
    """Opcode and payload of the next frame of the server."""
    first, size = client._file.read(2)
    if size == 126:
        (size,) = struct.unpack("!H", client._file.read(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", client._file.read(8))
    return first & 0xF, client._file.read(size)


def close_code(client: Client) -> int:
    """The code of the close frame that comes next."""
    opcode, payload = read_frame(client)
    assert opcode == CLOSE
    return int.from_bytes(payload[:2], "big")


@contextmanager
def socket_of(edge: Edge, target: str = "/socket") -> Iterator[ClientConnection]:
    host, port = edge.address
    with connect(f"ws://{host}:{port}{target}", open_timeout=WITHIN_S) as socket:
        yield socket


def closed_with(socket: ClientConnection) -> tuple[int, str]:
    """Code and reason of the server's close frame."""
    with pytest.raises(ConnectionClosed) as caught:
        socket.recv(timeout=WITHIN_S)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


# --- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 70_000, 1_000_000])
def test_a_message_of_any_size_comes_back(shared_edge: Edge, size: int) -> None:
    with socket_of(shared_edge) as socket:
        socket.send("x" * size)
        assert socket.recv(timeout=WITHIN_S) == "x" * size
        socket.send(["in ", "parts"])
        assert socket.recv(timeout=WITHIN_S) == "in parts"


def test_messages_come_back_in_their_order(shared_edge: Edge) -> None:
    with socket_of(shared_edge) as socket:
        for number in range(2000):
            socket.send(str(number))
        assert [socket.recv(timeout=WITHIN_S) for _ in range(2000)] == [*map(str, range(2000))]


def test_a_message_above_the_limit_closes_it_and_the_client_learns_why(shared_edge: Edge) -> None:
    with socket_of(shared_edge) as socket:
        socket.send("x" * (1024 * 1024 + 1))
        assert closed_with(socket)[0] == 1009


def test_a_text_that_is_not_in_utf_8_closes_it_and_is_no_error_of_the_service(
    shared_edge: Edge, log: pytest.LogCaptureFixture
) -> None:
    with socket_of(shared_edge) as socket:
        socket.send(b"\xff", text=True)
        assert closed_with(socket)[0] == 1007
    assert [record for record in log.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("cut", [False, True])
def test_frames_may_follow_the_handshake_at_once(shared_edge: Edge, cut: bool) -> None:
    sent = handshake() + frame(TEXT, b"early") + frame(TEXT, b"y" * 9000)
    with shared_edge.connect() as client:
        client.send(*([bytes([byte]) for byte in sent] if cut else [sent]))
        answer = client.answer()
        assert answer.status == 101
        assert answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455
        assert answer.headers["x-request-id"]
        assert read_frame(client) == (TEXT, b"early")
        assert read_frame(client) == (TEXT, b"y" * 9000)
        client.send(frame(CLOSE, struct.pack("!H", 1000)))
        assert close_code(client) == 1000
        assert client.is_closed()


def test_a_target_may_be_a_url_with_a_query(shared_edge: Edge) -> None:
    with shared_edge.connect() as client:
        client.send(handshake("http://x/socket?a=b"))
        assert client.answer().status == 101


def test_a_kept_connection_may_become_a_websocket(shared_edge: Edge) -> None:
    with shared_edge.connect() as client:
        client.send(GET)
        assert client.answer().status == 200
        client.send(handshake(), frame(TEXT, b"hello"))
        assert client.answer().status == 101
        assert read_frame(client) == (TEXT, b"hello")


# --- invalid handshakes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ({"Sec_WebSocket_Version": "8"}, "Sec-WebSocket-Version is not 13"),
        ({"Sec_WebSocket_Key": "short"}, "Sec-WebSocket-Key is not 16 bytes"),
        ({"A": "b" * 8200}, "a header of its WebSocket handshake has more than 8188 bytes"),
    ],
)
def test_a_handshake_that_is_wrong_is_400(
    shared_edge: Edge, lines: dict[str, str], what: str
) -> None:
    with shared_edge.connect() as client:
        client.send(handshake(**lines))
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert what in answer.json()["detail"]
        assert client.is_closed()


def test_the_largest_header_of_a_handshake_is_read(shared_edge: Edge) -> None:
    with shared_edge.connect() as client:
        client.send(handshake(A="b" * 8187))
        assert client.answer().status == 101


@pytest.mark.parametrize(
    "request_",
    [
        handshake("/echo"),
        handshake("/socket/further"),
        handshake(Content_Length="5") + b"hello",
        handshake(Upgrade="h2c"),
        handshake(Connection="keep-alive"),
        handshake().replace(b"GET", b"POST"),
        handshake().replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_elsewhere_the_offer_is_ignored(shared_edge: Edge, request_: bytes) -> None:
    """The path is no WebSocket's, a body follows, or no WebSocket is asked for."""
    assert shared_edge.ask(request_).status in (200, 404)


def test_behind_a_request_that_is_not_answered_it_is_ignored(shared_edge: Edge) -> None:
    with running_edge() as edge, edge.connect() as client:
        client.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" + handshake())
        assert edge.started.acquire(timeout=WITHIN_S)
        edge.release.set()
        assert client.answer().body == b"waited"
        assert client.answer().status == 404


def test_a_route_may_refuse_it_with_a_problem(shared_edge: Edge) -> None:
    with pytest.raises(InvalidStatus) as caught, socket_of(shared_edge, "/refused"):
        pass
    response = caught.value.response
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"
    assert b"urn:scmrl:error:unknown-model" in response.body
    assert response.headers["X-Request-ID"].encode() in response.body


def test_a_slow_handshake_is_408() -> None:
    with running_edge(head_timeout_s=0.3) as edge, edge.connect() as client:
        client.send(handshake()[:-2])
        assert client.answer().status == 408


@pytest.mark.parametrize("cut", [100_000, 1000])
def test_a_head_that_is_too_large_is_431(shared_edge: Edge, cut: int) -> None:
    sent = handshake(**{f"A{number}": "b" * 8150 for number in range(4)})
    with shared_edge.connect() as client:
        client.send(*(sent[start : start + cut] for start in range(0, len(sent), cut)))
        assert client.answer().status == 431


# --- the end --------------------------------------------------------------------------------------


def test_a_problem_of_an_open_one_is_its_close_code_and_reason(shared_edge: Edge) -> None:
    with socket_of(shared_edge) as socket:
        socket.send("problem")
        code, reason = closed_with(socket)
    assert code == 1013
    assert reason.startswith("Nothing is left.")
    assert len(reason) == 123


def test_a_bug_closes_it_without_details(shared_edge: Edge, log: pytest.LogCaptureFixture) -> None:
    with socket_of(shared_edge) as socket:
        socket.send("raise")
        assert closed_with(socket) == (1011, "")
    assert "RuntimeError: a bug" in log.text


def test_a_route_that_returns_closes_it(shared_edge: Edge) -> None:
    with socket_of(shared_edge) as socket:
        socket.send("end")
        assert closed_with(socket)[0] == 1000


@pytest.mark.parametrize(
    ("last", "code"),
    [(b"end", 1000), (b"problem", 1013), (b"raise", 1011), (b"x" * (1024 * 1024 + 1), 1009)],
)
def test_the_close_of_a_client_is_read_behind_all_that_it_had_sent(last: bytes, code: int) -> None:
    """The server closes first; until it has read the client's close frame, the client waits."""
    with running_edge() as edge, edge.connect() as client:
        client.send(handshake())
        assert client.answer().status == 101
        (connection,) = edge.open
        assert isinstance(connection, WebSocketConnection)
        connection.close_timeout = 10 * WITHIN_S
        client.send(frame(TEXT, last) + frame(TEXT, b"more") * 3000)
        assert close_code(client) == code
        client.send(frame(CLOSE, struct.pack("!H", code)))
        assert client.is_closed()


def test_it_is_one_line_of_the_log(shared_edge: Edge, log: pytest.LogCaptureFixture) -> None:
    def lines() -> list[logging.LogRecord]:
        return [record for record in log.records if record.name == "scmrl.access"]

    with socket_of(shared_edge, "/socket?secret=1") as socket:
        socket.send("hello")
        assert socket.recv(timeout=WITHIN_S) == "hello"
        assert lines() == []
    wait_until(lambda: bool(lines()))
    (line,) = lines()
    assert "GET '/socket' 101" in line.getMessage()
    assert "secret" not in log.text
    assert "1000" in str(vars(line))


def test_the_end_of_the_server_closes_it_with_1012() -> None:
    codes: list[int] = []
    with running_edge() as edge:
        opened = threading.Event()

        def wait() -> None:
            with socket_of(edge) as socket:
                opened.set()
                codes.append(closed_with(socket)[0])

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert opened.wait(WITHIN_S)
    waiting.join(WITHIN_S)
    assert codes == [1012]
    assert len(edge.connections) == 0


# --- its place among the connections, and what it may cost ----------------------------------------


def test_it_is_counted_while_it_is_open_and_is_not_idle() -> None:
    with running_edge(maximum=1) as edge:
        with socket_of(edge) as socket:
            (connection,) = edge.open
            assert isinstance(connection, WebSocketConnection)
            with edge.connect() as client:  # refused: the other one is in use
                assert client.is_closed()
            socket.send("still there")
            assert socket.recv(timeout=WITHIN_S) == "still there"
        wait_until(lambda: not edge.open)
        assert edge.connections.ended["refused"] == 1
        assert edge.ask(GET).status == 200


def test_an_idle_connection_gives_its_place_to_one_that_becomes_a_websocket() -> None:
    with running_edge(maximum=1) as edge, edge.connect() as idle:
        idle.send(GET)
        assert idle.answer().status == 200
        with socket_of(edge) as socket:
            socket.send("hello")
            assert socket.recv(timeout=WITHIN_S) == "hello"
        assert edge.connections.ended["evicted"] == 1


@pytest.mark.parametrize("opcode", [TEXT, PING])
def test_a_client_that_never_reads_is_read_no_more_and_reset(opcode: int) -> None:
    """What is sent to it does not pile up, and it gives its place back."""
    unlimited = {"event_burst": 10**9, "events_per_s": 10**9}
    with (
        running_edge(send_timeout_s=1, **unlimited) as edge,
        edge.connect(receive_buffer=4096) as client,
    ):
        client.send(handshake())
        assert client.answer().status == 101
        client.socket.settimeout(0.2)
        flood = memoryview(frame(opcode, bytes(125)) * 1000)
        at = unsent = total = 0
        while edge.open and total < 10**9:
            try:
                sent = client.socket.send(flood[at:])
            except TimeoutError:
                continue  # it is not read now
            except ConnectionError:
                break
            total += sent
            at = (at + sent) % len(flood)
            unsent = max([unsent, *(c._transport.unsent_bytes for c in edge.open)])
        assert unsent < 1_000_000
        wait_until(lambda: not edge.open)
        assert edge.connections.ended["unread"] == 1


def test_small_frames_are_read_at_a_rate() -> None:
    with running_edge(event_burst=100, events_per_s=100) as edge, edge.connect() as client:
        client.send(handshake())
        assert client.answer().status == 101
        started = time.monotonic()
        client.send(frame(PING, b"p") * 2500)
        for _ in range(2500 - 2000):
            assert read_frame(client) == (PONG, b"p")
        assert edge.ask(GET).status == 200, "and others are answered meanwhile"
        for _ in range(200):
            assert read_frame(client) == (PONG, b"p")
        assert time.monotonic() - started > 3


def test_a_client_that_goes_away_leaves_nothing() -> None:
    with running_edge() as edge:
        with edge.connect() as client:
            client.send(handshake())
            assert client.answer().status == 101
        wait_until(lambda: not edge.open)
