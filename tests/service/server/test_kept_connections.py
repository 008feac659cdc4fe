"""Requests that follow one another on a connection, and answers in one write."""

from __future__ import annotations

import socket

import pytest

from service.server.connection_transport import ConnectionTransport
from service.server.listener import listen
from tests.service.server.edge import GET, Edge, post, running_edge


@pytest.mark.parametrize("kind", ["the command's", "protocol 0"])
def test_accepted_sockets_send_without_delay(kind: str) -> None:
    """Nagle's algorithm and delayed acknowledgements cost 40 ms together."""
    listener = listen("127.0.0.1", 0) if kind != "protocol 0" else socket.create_server(("", 0))
    with running_edge(listener=listener) as edge, edge.connect() as client:
        client.send(GET)
        client.answer()
        accepted = edge.open[0]._transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_small_response_leaves_in_one_write(
    shared_edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []
    write = ConnectionTransport._write

    def recorded(transport: ConnectionTransport, data: bytes) -> None:
        writes.append(data)
        write(transport, data)

    monkeypatch.setattr(ConnectionTransport, "_write", recorded)
    with shared_edge.connect() as client:
        for _ in range(2):
            client.send(post(b"hello"))
            assert client.answer().body == b"hello"
    assert len(writes) == 2
    assert all(data.startswith(b"HTTP/1.1 200") and data.endswith(b"hello") for data in writes)


def test_a_large_response_is_complete(shared_edge: Edge) -> None:
    size = 5_000_000
    with shared_edge.connect() as client:
        for _ in range(2):
            client.send(b"GET /bytes/%d HTTP/1.1\r\nHost: x\r\n\r\n" % size)
            assert client.answer().body == bytes(size)


@pytest.mark.parametrize("count", [2, 600])
def test_pipelined_requests_are_answered_in_order(count: int) -> None:
    with running_edge(pipelined_burst=count) as edge, edge.connect() as client:
        client.send(b"".join(post(b"%d" % number) for number in range(count)))
        for number in range(count):
            assert client.answer().body == b"%d" % number


@pytest.mark.slow
def test_few_of_many_pipelined_requests_are_buffered_while_the_first_is_answered() -> None:
    with running_edge(pipelined_burst=1500) as edge, edge.connect() as client:
        client.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n", 1500 * GET)
        edge.started.acquire()
        (connection,) = edge.open
        assert len(connection.pipeline) < 200
        edge.release.set()
        for _ in range(1501):
            assert client.answer().status == 200


def test_a_request_after_one_that_ends_the_connection_is_not_answered(shared_edge: Edge) -> None:
    with shared_edge.connect() as client:
        client.send(post(b"last", "/echo", "Connection: close"), GET)
        answer = client.answer()
        assert answer.body == b"last"
        assert answer.headers["connection"] == "close"
        assert client.is_closed()


def test_http_1_0_gets_one_response(shared_edge: Edge) -> None:
    with shared_edge.connect() as client:
        client.send(b"GET /echo HTTP/1.0\r\n\r\n")
        assert client.answer().status == 200
        assert client.is_closed()


@pytest.mark.parametrize("path", ["/echo", "/empty/200", "/empty/204", "/empty/304"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_responses_without_a_body_keep_the_connection_in_sync(
    shared_edge: Edge, path: str, method: str
) -> None:
    with shared_edge.connect() as client:
        for _ in range(2):
            client.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = client.answer(method)
            assert answer.status in (200, 204, 304)
        client.send(post(b"in step"))
        assert client.answer().body == b"in step"


def test_100_continue_is_sent_when_the_body_is_read(shared_edge: Edge) -> None:
    with shared_edge.connect() as client:
        request = post(b"hello", "/echo", "Expect: 100-continue")
        client.send(request[:-5])
        assert client.answer().status == 100
        client.send(request[-5:])
        assert client.answer().body == b"hello"


def test_100_continue_is_not_sent_when_the_body_is_not_read(shared_edge: Edge) -> None:
    with shared_edge.connect() as client:
        client.send(post(b"hello", "/early/TOO_LARGE", "Expect: 100-continue")[:-5])
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")


def test_http_1_0_gets_no_interim_response(shared_edge: Edge) -> None:
    with shared_edge.connect() as client:
        client.send(
            b"POST /echo HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", b"hello"
        )
        assert client.answer().body == b"hello"


UPGRADES = {
    "h2c": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"],
    "websocket": [
        "Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ],
}  # fmt: skip


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("body", [b"", b"hello"])
@pytest.mark.parametrize("cut", [False, True])
def test_an_upgrade_is_ignored(shared_edge: Edge, upgrade: str, body: bytes, cut: bool) -> None:
    request = post(body, "/echo", *UPGRADES[upgrade])
    with shared_edge.connect() as client:
        for _ in range(2):
            client.send(*([bytes([b]) for b in request] if cut else [request]))
            answer = client.answer()
            assert (answer.status, answer.body) == (200, body)
        client.send(request, GET)
        assert client.answer().body == body
        assert client.answer().status == 200


def test_headers_beside_an_ignored_upgrade_reach_the_app(shared_edge: Edge) -> None:
    head = ["GET /headers HTTP/1.1", "Host: x", *UPGRADES["h2c"], "X-Odd:\t a  b \t", "", ""]
    headers = dict(shared_edge.ask("\r\n".join(head).encode()).json())
    assert headers["x-odd"].strip() == "a  b"
    assert headers["http2-settings"] == "AAMAAABk"
