"""How long a connection may take: for a head, a body, between requests, and to read an answer."""

from __future__ import annotations

import asyncio
import socket
import time
import tracemalloc

import pytest

from service.http.middleware import body_limit
from service.server.connection_transport import ConnectionTransport
from service.server.send_deadline import SendDeadline
from service.server.timers import Timers
from tests.service.running_server import wait_until
from tests.service.server.edge import GET, post, running_edge


@pytest.mark.parametrize("before", [b"", GET], ids=["first", "second"])
def test_a_head_that_trickles_is_408(before: bytes, log: pytest.LogCaptureFixture) -> None:
    with running_edge(head_timeout_s=0.3) as edge, edge.connect() as client:
        if before:
            client.send(before)
            assert client.answer().status == 200
        client.send(b"GET /echo HT")
        time.sleep(0.1)
        client.send(b"T")
        answer = client.answer()
        assert client.is_closed()
    assert (answer.status, answer.json()["type"]) == (408, "urn:scmrl:error:head-timeout")
    assert "SCMRL_HEAD_TIMEOUT_S" in answer.json()["detail"]
    assert answer.headers["connection"] == "close"
    assert edge.connections.ended == {"slow_head": 1}
    (line,) = [r for r in log.records if answer.json()["id"] in r.getMessage()]
    assert "head-timeout" in line.getMessage()


def test_a_head_that_trickles_without_end_is_408() -> None:
    """Each byte comes in time, the head does not."""
    with running_edge(head_timeout_s=0.3) as edge, edge.connect() as client:
        client.socket.settimeout(0.02)
        client.send(b"GET /echo HTTP/1.1\r\nX: ")
        end = time.monotonic() + 60
        while not edge.connections.ended["slow_head"]:
            assert time.monotonic() < end
            client.send(b"x")
            time.sleep(0.02)


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"])
def test_a_connection_without_a_request_is_closed(sent: bytes) -> None:
    with running_edge(head_timeout_s=0.2) as edge, edge.connect() as client:
        client.send(sent)
        assert client.is_closed()
        assert edge.connections.ended == {"silent": 1}


def test_a_kept_connection_without_a_further_request_is_closed() -> None:
    with running_edge(keep_alive_s=1) as edge, edge.connect() as client:
        client.send(GET)
        assert client.answer().status == 200
        assert client.is_closed()
        assert not edge.connections.ended


def test_an_empty_line_after_a_request_does_not_begin_a_head() -> None:
    """Old clients end a body with one."""
    with running_edge(head_timeout_s=0.2) as edge, edge.connect() as client:
        client.send(post(b"hello") + b"\r\n")
        assert client.answer().body == b"hello"
        client.send(b"\r\n")
        time.sleep(0.5)
        client.send(GET)
        assert client.answer().status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_slow_is_408(
    chunked: bool, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(body_limit, "_GRACE_S", 0.2)
    request = post(bytes(5000)).split(b"\0")[0]
    if chunked:
        request = request.replace(b"Content-Length: 5000", b"Transfer-Encoding: chunked")
    with running_edge(min_rate=1000) as edge, edge.connect() as client:
        client.send(request + (b"64\r\n" if chunked else b"") + bytes(100))
        answer = client.answer()
    assert (answer.status, answer.json()["type"]) == (408, "urn:scmrl:error:upload-timeout")
    assert "SCMRL_UPLOAD_MIN_RATE" in answer.json()["detail"]
    assert answer.headers["connection"] == "close"
    assert any("upload-timeout" in record.getMessage() for record in log.records)


def test_a_body_that_is_fast_enough_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "_GRACE_S", 60.0)
    with running_edge(min_rate=1000) as edge, edge.connect() as client:
        request = post(b"hello")
        client.send(request[:-3])
        time.sleep(0.5)
        client.send(request[-3:])
        assert client.answer().body == b"hello"


def test_a_response_that_is_not_read_resets_the_connection_and_its_memory_freed(
    log: pytest.LogCaptureFixture,
) -> None:
    tracemalloc.start()
    try:
        with running_edge(send_timeout_s=0.3) as edge, edge.connect(receive_buffer=4096) as client:
            client.send(b"GET /bytes/50000000 HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: bool(edge.connections.ended["unread"]))
            assert tracemalloc.get_traced_memory()[1] > 50_000_000
            wait_until(lambda: not edge.open and tracemalloc.get_traced_memory()[0] < 5_000_000)
    finally:
        tracemalloc.stop()
    assert "SCMRL_SEND_TIMEOUT_S" in log.text
    assert "Traceback" not in log.text


@pytest.mark.parametrize("close", ["", "Connection: close\r\n"])
def test_a_small_response_that_is_not_read_resets_the_connection(close: str) -> None:
    """Its unsent rest is below the write buffer's limit, so writing is not paused."""
    with running_edge(send_timeout_s=0.3) as edge, edge.connect(receive_buffer=4096) as client:
        request = f"GET /bytes/1000 HTTP/1.1\r\nHost: x\r\n{close}\r\n"
        fill = b"GET /bytes/60000 HTTP/1.1\r\nHost: x\r\n\r\n" * 200
        client.send(fill, request.encode())
        wait_until(lambda: bool(edge.connections.ended["unread"]))
        wait_until(lambda: not edge.open)


def test_each_response_has_its_own_send_deadline() -> None:
    """A client that always reads, and always has something to read, is not cut off."""

    async def steps() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        corked = ConnectionTransport(transport, lambda: None)
        given_up: list[bool] = []
        timers = Timers(loop)
        limit = SendDeadline(corked, timers, 3600, lambda: given_up.append(True))

        def time_is_over() -> None:
            timers.cancel("send")
            limit._check()

        async def read(size: int) -> None:
            while size:
                size -= len(await loop.sock_recv(theirs, size))

        async def wait_for_room(size: int) -> None:
            while corked.unsent_bytes > size:
                await asyncio.sleep(0.001)

        size = 10_000_000
        for _ in range(2):
            limit.begin_response()
            corked.write(bytes(size))
            limit.end_response()
        await read(size)
        await wait_for_room(size)
        time_is_over()
        assert not given_up
        time_is_over()
        assert given_up, "the second answer is not read"
        await read(size)
        await wait_for_room(0)
        given_up.clear()
        time_is_over()
        assert not given_up
        transport.abort()
        theirs.close()

    asyncio.run(steps())
