"""What one connection may cost in work and memory, and how many there may be."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.runtime.token_bucket import TokenBucket
from service.server.body_framing import BodyFraming
from service.server.connection import Connection
from tests.service.running_server import wait_until
from tests.service.server.edge import CHUNKED, GET, Client, Edge, post, running_edge

WAIT = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /echo HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 5000,
        b"GET /echo HTTP/1.1\r\nHost: x\r\n" + b"A:\r\n" * 101,
        b"GET /echo HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 100_000,
        b"GET /echo HTTP/1.1\r\nHost: x\r\n" + b"A" * 100_000,
        b"GET /" + b"a" * 100_000,
        b"\r\n" * 50_000,
    ],
)
@pytest.mark.parametrize("cut", [100_000_000, 1000])
def test_a_head_that_is_too_large_is_431_before_its_end(
    shared_edge: Edge, head: bytes, cut: int
) -> None:
    with shared_edge.connect() as client:
        client.send(*(head[start : start + cut] for start in range(0, len(head), cut)))
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (431, "close")
        assert answer.json()["type"] == "urn:scmrl:error:head-too-large"
        assert client.is_closed()


def test_a_head_within_the_limits_is_read(shared_edge: Edge) -> None:
    lines = [f"A{number}: {'b' * 300}" for number in range(95)]
    assert shared_edge.ask(post(b"hello", "/echo", *lines)).body == b"hello"


@pytest.mark.parametrize(
    ("body", "status", "what"),
    [
        (b"1\r\nx\r\n" * 50_000, 400, "larger chunks"),
        (b"5;" + b"a" * 100_000 + b"\r\nhello\r\n", 400, "extensions"),
        (b"0" * 100_000 + b"5\r\nhello\r\n", 400, "extensions"),
        (b"fffff\r\n" + bytes(0xFFFFF) + b"\r\n0\r\nA: " + b"b" * 100_000, 400, "trailers"),
        (b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 5000, 431, "100 headers"),
    ],
    ids=["one-byte chunks", "an extension", "zeros", "a trailer", "trailers"],
)
def test_framing_is_bounded(shared_edge: Edge, body: bytes, status: int, what: str) -> None:
    with shared_edge.connect() as client:
        client.send(CHUNKED, body)
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert what in answer.json()["detail"]
        assert client.is_closed()


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_a_body_of_fair_chunks_is_read(shared_edge: Edge, size: int) -> None:
    count = min(3000, 2_000_000 // size)
    body = b"%x\r\n%s\r\n" % (size, b"x" * size) * count + b"0\r\n\r\n"
    assert shared_edge.ask(CHUNKED, body).body == b"x" * size * count


@given(pieces=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 300)), max_size=60))
@settings(max_examples=100)
def test_framing_is_counted_apart_from_content(pieces: list[tuple[int, int]]) -> None:
    framing = BodyFraming(free_bytes=500, run_bytes=1000)
    sent = content = 0
    for frame, size in pieces:
        if size:
            framing.add_content(size)
        framing.add_piece(frame + size)
        sent, content = sent + frame + size, content + size
        assert (sent - content > 500 + content) <= (framing.fault() is not None)


def test_a_token_bucket_allows_a_burst_and_then_its_rate() -> None:
    now = 0.0
    budget = TokenBucket(10, 5, clock=lambda: now)
    for _ in range(10):
        assert budget.wait_s() == 0
        budget.spend()
    budget.spend()
    assert budget.wait_s() == pytest.approx(0.2)
    now = 0.2
    assert budget.wait_s() == 0
    now = 1000.0
    budget.wait_s()
    for _ in range(11):
        budget.spend()
    assert budget.wait_s() == pytest.approx(0.2), "what was not used is not saved up"


@pytest.mark.parametrize("kind", ["chunks", "headers", "requests"])
def test_many_small_pieces_are_read_slowly(kind: str) -> None:
    """They are answered all the same. Far over 700 events before the last slice is parsed."""
    requests = {
        "chunks": (1, CHUNKED + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"),
        "headers": (20, post(b"", "/echo", *["A: b"] * 97) * 20),
        "requests": (800, GET * 800),
    }
    count, sent = requests[kind]
    rates = {"events_per_s": 2000, "pipelined_per_s": 2000, "pipelined_burst": 50}
    with running_edge(event_burst=50, **rates) as edge, edge.connect() as client:
        began = time.monotonic()
        client.send(sent)
        for _ in range(count):
            assert client.answer().status == 200
        assert time.monotonic() - began > 0.2


def test_pipelined_requests_are_limited_and_those_that_wait_for_the_response_are_not() -> None:
    # A slice holds five or six requests, of which one may begin when all are answered.
    limits = {"pipelined_burst": 5, "pipelined_per_s": 100, "slice_bytes": 6 * len(GET)}
    with running_edge(**limits) as edge, edge.connect() as client:
        began = time.monotonic()
        client.send(GET * 100)
        for _ in range(100):
            assert client.answer().status == 200
        assert time.monotonic() - began > 0.5
    with running_edge(pipelined_burst=1, pipelined_per_s=1) as edge, edge.connect() as client:
        client.send(GET)
        for _ in range(100):  # with one token a second the hundredth would wait for minutes
            assert client.answer().status == 200
            client.send(GET)


def test_each_small_read_is_counted() -> None:
    with running_edge(event_burst=1000, events_per_s=1) as edge, edge.connect() as client:
        wait_until(lambda: bool(edge.open))
        (connection,) = edge.open
        for count, byte in enumerate(GET[:30], 1):
            client.send(bytes([byte]))
            while connection._reader._head_bytes != count:
                time.sleep(0.001)
        assert connection._reader._events._left < 1000 - 15  # it has been refilled a little


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /echo HTTP/1.1\r\nHost: x\r\nA: ",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 20004\r\n\r\n",
    ],
)
def test_a_request_in_tiny_packets_is_read_in_larger_pieces(
    begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads are limited after a burst, and the request is answered in the end."""
    reads: list[int] = []
    receive = Connection.data_received

    def count(self: Connection, data: bytes) -> None:
        reads.append(len(data))
        receive(self, data)

    monkeypatch.setattr(Connection, "data_received", count)
    with running_edge(read_burst=5, reads_per_s=20) as edge, edge.connect() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        client.send(begin, *[b"x"] * 20_000, b"\r\n\r\n")
        assert client.answer().status == 200
        assert len(reads) <= 15 + 20 * (time.monotonic() - began)
    assert sum(reads) == len(begin) + 20_004


def test_a_large_body_spends_no_tokens() -> None:
    body = bytes(2_000_000)
    with running_edge(event_burst=50, events_per_s=1) as edge:
        assert edge.ask(post(body)).body == body


def test_the_connection_that_was_idle_longest_is_evicted() -> None:
    with running_edge(maximum=3) as edge, contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(edge.connect()) for _ in range(3))
        for client in (first, second, third, first):  # the first is used again: the second waits
            client.send(GET)
            assert client.answer().status == 200
        assert edge.ask(GET).status == 200
        assert second.is_closed()
        for client in (first, third):
            client.send(GET)
            assert client.answer().status == 200
        assert edge.connections.ended == {"evicted": 1}


def test_connections_with_requests_in_flight_are_not_evicted(log: pytest.LogCaptureFixture) -> None:
    with running_edge(maximum=3) as edge, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(edge.connect()) for _ in range(3)]
        for client in clients:
            client.send(WAIT)
            edge.started.acquire()
        with edge.connect() as late:
            assert late.is_closed()
        assert edge.connections.ended == {"refused": 1}
        edge.release.set()
        assert [client.answer().status for client in clients] == [200] * 3
        assert edge.ask(GET).status == 200, "they are idle now"
    assert "SCMRL_MAX_CONNECTIONS" in log.text
    assert "Traceback" not in log.text


def test_lingering_connections_are_evicted() -> None:
    with running_edge(maximum=3, linger_s=600) as edge, contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(edge.connect())
            client.send(post(bytes(1000), "/early/TOO_LARGE")[:500])
            assert client.answer().status == 413
        assert edge.ask(GET).status == 200


def test_the_server_responds_during_a_flood_of_connections() -> None:
    with running_edge(maximum=20) as edge, contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(edge.connect())
        wait_until(lambda: edge.connections.ended["evicted"] >= 180)
        assert edge.ask(GET).status == 200
        wait_until(lambda: len(edge.connections) <= 20)


def test_ended_connections_leave_no_state() -> None:
    with running_edge(linger_s=0.2) as edge:
        for sent in (b"", GET, b"NOT HTTP\r\n\r\n", post(bytes(9), "/early/FULL"), GET[:9]):
            Client(edge.address).close()
            with edge.connect() as client:
                client.send(sent)
        wait_until(lambda: not edge.open and not edge.connections._idle)
