"""Requests that are not HTTP/1.1: refused with a problem document, closed, one line of log."""

from __future__ import annotations

import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service.server.edge import CHUNKED, GET, Answer, Client, Edge, post

HOST = b"GET /echo HTTP/1.1\r\nHost: x\r\n"

HEADS = {
    "a bad method": b"G@T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown method": b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no method": b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target that is none": b"GET nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target of a proxy without a path": b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
    "the server as target": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "the server as target of GET": b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "non-ASCII in the target": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab in the target": b"GET /\t HTTP/1.1\r\nHost: x\r\n\r\n",
    "no version": b"GET /\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\nHost: x\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a version in lower case": b"GET / http/1.1\r\nHost: x\r\n\r\n",
    "another protocol": b"GET / FTP/1.1\r\nHost: x\r\n\r\n",
    "words behind the version": b"GET / HTTP/1.1 x\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "bare LF behind the request line": b"GET / HTTP/1.1\nHost: x\r\n\r\n",
    "bare LF behind a header": b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "bare LF at the head's end": b"GET / HTTP/1.1\r\nHost: x\r\n\n",
    "bare LF everywhere": b"GET / HTTP/1.1\nHost: x\n\n",
    "bare CR in a value": HOST + b"A: b\rc\r\n\r\n",
    "a folded line": HOST + b"A: b\r\n c\r\n\r\n",
    "a folded line of tabs": HOST + b"A: b\r\n\tc\r\n\r\n",
    "a folded first line": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "a space before the colon": HOST + b"A : b\r\n\r\n",
    "a tab before the colon": HOST + b"A\t: b\r\n\r\n",
    "no name": HOST + b": b\r\n\r\n",
    "no colon": HOST + b"A\r\n\r\n",
    "NUL in a value": HOST + b"A: b\0c\r\n\r\n",
    "NUL in a name": HOST + b"A\0: b\r\n\r\n",
    "a control character in a value": HOST + b"A: \x01\r\n\r\n",
    "DEL in a value": HOST + b"A: \x7f\r\n\r\n",
    "non-ASCII in a name": HOST + b"\xc3\xa9: b\r\n\r\n",
    "a bracket in a name": HOST + b"A(b): c\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
    "two Hosts": HOST + b"Host: y\r\n\r\n",
    "two Hosts that are equal": HOST + b"Host: x\r\n\r\n",
    "two Hosts in HTTP/1.0": b"GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n",
    "a Host with a path": b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "a Host with a user": b"GET / HTTP/1.1\r\nHost: a@x\r\n\r\n",
    "a Host with a space": b"GET / HTTP/1.1\r\nHost: x y\r\n\r\n",
    "a Host of two": b"GET / HTTP/1.1\r\nHost: x, y/z\r\n\r\n",
}

POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = b"0\r\n\r\nGET /echo HTTP/1.1\r\nHost: x\r\n\r\n"

LENGTHS = [
    b"Content-Length: +5", b"Content-Length: -5", b"Content-Length: 0x5", b"Content-Length: 5 5",
    b"Content-Length: 5, 5", b"Content-Length: 5,6", b"Content-Length: ", b"Content-Length: 5.0",
    b"Content-Length: \xb2", b"Content-Length: 5_0", b"Content-Length : 5", b"Content-Length: 5;",
    b"Content-Length: 99999999999999999999999999",
    b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5\r\nContent-Length: 6",
    b"Content-Length: 5\r\ncontent-length: 0",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Transfer-Encoding: chunked\r\nContent-Length: 0",
    b"Transfer-Encoding: identity\r\nContent-Length: 5",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunkedx", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked,", b"Transfer-Encoding: ,chunked", b"Transfer-Encoding: ",
    b"Transfer-Encoding: chunked;q=1", b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: chunked\x0b",
    b"Transfer-Encoding: chun\r\n ked", b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
]  # fmt: skip

CHUNKS = {
    "no size": b"\r\nhello",
    "a size that is none": b"zz\r\n",
    "a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "a space behind the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "a size of 68 bits": b"fffffffffffffffff\r\nhello",
    "bare LF": b"5\nhello\n0\n\n",
    "bare LF behind an extension": b"5;a\nhello\r\n0\r\n\r\n",
    "LF in a quoted extension": b'5;a="\n"\r\nhello\r\n0\r\n\r\n',
    "an extension without a name": b"5;\r\nhello\r\n0\r\n\r\n",
    "more than the size": b"5\r\nhelloo\r\n0\r\n\r\n",
    "nothing behind the chunk": b"5\r\nhello0\r\n\r\n",
    "in the midst": b"5\r\nhello\r\nzz\r\n",
    "a length among the trailers": b"0\r\nContent-Length: 5\r\n\r\n",
    "a coding among the trailers": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "a name that is none among the trailers": b"0\r\nA\xff: b\r\n\r\n",
}


def refused(edge: Edge, request: bytes, log: pytest.LogCaptureFixture, status: int = 400) -> Answer:
    """The problem that is the only answer, and the last."""
    with edge.connect() as client:
        client.send(request)
        answer = client.answer()
        assert client.is_closed(), "what follows is no request"
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/problem+json"
    request_id = answer.json()["id"]
    assert request_id == answer.headers["x-request-id"]
    (line,) = [record for record in log.records if record.levelno >= logging.WARNING]
    assert request_id in line.getMessage()
    assert line.exc_info is None
    return answer


@pytest.mark.parametrize("name", HEADS)
def test_a_malformed_head_is_400(
    shared_edge: Edge, name: str, log: pytest.LogCaptureFixture
) -> None:
    answer = refused(shared_edge, HEADS[name], log)
    assert answer.json()["type"] == "urn:scmrl:error:malformed"
    assert "callback" not in answer.json()["detail"].lower()


def test_tls_is_named_in_the_log(shared_edge: Edge, log: pytest.LogCaptureFixture) -> None:
    """A client of https:// cannot read the answer: the operator can read the log."""
    answer = refused(shared_edge, HEADS["TLS"], log)
    assert "it begins with a TLS handshake; use http://" in answer.json()["detail"]
    assert "TLS handshake" in log.text


@pytest.mark.parametrize("lines", LENGTHS)
def test_a_body_whose_length_is_unclear_is_400(
    shared_edge: Edge, lines: bytes, log: pytest.LogCaptureFixture
) -> None:
    answer = refused(shared_edge, POST + lines + b"\r\n\r\n" + SMUGGLED, log)
    assert answer.json()["type"] == "urn:scmrl:error:malformed"


def test_http_1_0_has_no_chunks(shared_edge: Edge, log: pytest.LogCaptureFixture) -> None:
    refused(shared_edge, CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n", log)


@pytest.mark.parametrize("name", CHUNKS)
def test_a_malformed_chunk_is_400(
    shared_edge: Edge, name: str, log: pytest.LogCaptureFixture
) -> None:
    answer = refused(shared_edge, CHUNKED + CHUNKS[name], log)
    assert answer.json()["type"] == "urn:scmrl:error:malformed"


def test_a_malformed_chunk_in_the_middle_of_an_upload_is_400(
    shared_edge: Edge, log: pytest.LogCaptureFixture
) -> None:
    chunk = b"%x\r\n%s\r\n" % (500_000, bytes(500_000))
    refused(shared_edge, CHUNKED + chunk * 3 + b"zz\r\n" + chunk * 3, log)


def test_the_response_to_a_malformed_head_request_has_no_body(shared_edge: Edge) -> None:
    with shared_edge.connect() as client:
        client.send(HEADS["two Hosts"].replace(b"GET", b"HEAD"))
        assert client.answer("HEAD").status == 400
        assert client.is_closed()


@pytest.mark.parametrize("bad", [b"NOT HTTP\r\n\r\n", HEADS["two Hosts"]])
def test_requests_before_a_malformed_one_are_answered(
    shared_edge: Edge, bad: bytes, log: pytest.LogCaptureFixture
) -> None:
    with shared_edge.connect() as client:
        client.send(post(b"1") + post(b"2") + bad + GET)
        assert [client.answer().body for _ in range(2)] == [b"1", b"2"]
        assert client.is_closed()
    (line,) = [record for record in log.records if record.levelno >= logging.WARNING]
    assert "was dropped" in line.getMessage()


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (b"\r\n\r\n" + GET, b""),
        (b"GET http://x/echo HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        (b"GET /echo HTTP/1.1\r\nHost:\r\n\r\n", b""),
        (b"GET /echo HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", b""),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nA: \xc3\xa9\r\nB:\r\n\r\n", b""),
        (POST + b"content-length:5\t \r\n\r\nhello", b"hello"),
        (POST + b"Content-Length: 005\r\n\r\nhello", b"hello"),
        (POST + b"Transfer-Encoding: CHUNKED \r\n\r\n005\r\nhello\r\n00\r\n\r\n", b"hello"),
        (CHUNKED + b'5;a;b=c;d="e f"\r\nhello\r\n0;a\r\n\r\n', b"hello"),
        (CHUNKED + b"5\r\nhello\r\n0\r\nHost: y\r\nExpect: 100-continue\r\n\r\n", b"hello"),
    ],
)
def test_what_the_rfc_allows_is_answered(shared_edge: Edge, request_: bytes, body: bytes) -> None:
    with shared_edge.connect() as client:
        for _ in range(2):
            client.send(request_)
            answer = client.answer()
            assert (answer.status, answer.body) == (200, body)


def test_trailers_are_not_headers(shared_edge: Edge) -> None:
    request = CHUNKED.replace(b"POST /echo", b"GET /headers") + b"0\r\nX-Secret: 1\r\n\r\n"
    with shared_edge.connect() as client:
        for _ in range(2):
            client.send(request)
            assert "x-secret" not in dict(client.answer().json())


REQUESTS = [
    GET,
    post(b"hello"),
    post(b"hello", "/echo", "Connection: close", "Expect: 100-continue"),
    post(b"", "/echo", "Connection: Upgrade", "Upgrade: h2c"),
    CHUNKED + b"5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
    *HEADS.values(),
    *(CHUNKED + chunks for chunks in CHUNKS.values()),
    *(POST + lines + b"\r\n\r\n" + SMUGGLED for lines in LENGTHS),
]
TOKENS = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\xff", b"0", b"5", b"chunked", b"\r\n\r\n",
    b"Host: x\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1",
    b"Upgrade: h2c\r\n", b"Connection: upgrade\r\n", b"Expect: 100-continue\r\n", GET,
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Some requests in a row, with pieces cut out and others put in."""
    sent = b"".join(draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(sent)))
        end = min(len(sent), start + draw(st.sampled_from([0, 0, 1, 2, 10])))
        sent = sent[:start] + draw(st.sampled_from(TOKENS) | st.binary(max_size=3)) + sent[end:]
    return sent


@st.composite
def cut(draw: st.DrawFn, sent: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    bounds = zip([0, *places], [*places, len(sent)], strict=True)
    return [sent[start:end] for start, end in bounds if start != end]


def answers(client: Client) -> list[Answer]:
    """All until the server closes the connection."""
    received = []
    while True:
        try:
            received.append(client.answer())
        except (EOFError, ConnectionResetError):
            return received


@given(data=st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_input_gets_responses_and_an_end(
    shared_edge: Edge, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    sent = data.draw(mutated())
    caplog.clear()
    with shared_edge.connect() as client:
        client.send(*data.draw(cut(sent)))
        client.end()
        for answer in answers(client):
            assert answer.status in (100, 200, 400, 404, 405, 431), answer
    assert "Traceback" not in caplog.text
    assert shared_edge.ask(GET).status == 200


@given(data=st.data())
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_response_does_not_depend_on_how_a_request_is_split(
    shared_edge: Edge, data: st.DataObject
) -> None:
    sent = b"".join(data.draw(st.lists(st.sampled_from(REQUESTS[:5]), min_size=1, max_size=4)))
    with shared_edge.connect() as client:
        client.send(sent)
        client.end()
        whole = final(answers(client))
    with shared_edge.connect() as client:
        client.send(*data.draw(cut(sent)))
        client.end()
        assert final(answers(client)) == whole
    assert whole


def final(received: list[Answer]) -> list[tuple[int, bytes]]:
    return [(answer.status, answer.body) for answer in received if answer.status >= 200]
