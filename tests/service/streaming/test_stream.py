"""`WS /v1/stream` of a running service, with a client that is not ours (`websockets`)."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
import wave
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from pydantic import SecretStr
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from model.media.reader import read_clip
from service.app import create_app
from service.server.limits import MIB
from service.settings import Settings
from service.streaming.messages import HEADER, PICTURE, SOUND
from tests.service.running_server import listening, running, wait_until

WITHIN_S = 60.0
RATE = 16_000
INPUTS = [{"field": "frames", "format": "png"}, {"field": "audio", "sample_rate": RATE}]
KEY = "anna-q7Zt4mXv9RkB2wLc8NpY"


@pytest.fixture(scope="module")
def service(weights: Path) -> Iterator[httpx.Client]:
    with running(weights, compile="off", stream_sessions=3, stream_idle_timeout_s=3) as client:
        yield client


@contextmanager
def socket_of(client: httpx.Client, **options: Any) -> Iterator[ClientConnection]:
    address = f"ws://{client.base_url.host}:{client.base_url.port}/v1/stream"
    with connect(address, open_timeout=WITHIN_S, max_size=64 * MIB, **options) as socket:
        yield socket


def start(socket: ClientConnection, **options: Any) -> dict[str, Any]:
    socket.send(json.dumps({"type": "start", "inputs": INPUTS, **options}))
    return receive(socket)


def receive(socket: ClientConnection) -> dict[str, Any]:
    return dict(json.loads(socket.recv(timeout=WITHIN_S)))


def close_of(socket: ClientConnection) -> tuple[int, str]:
    """Receive until the service closes; return code and reason."""
    try:
        while True:
            socket.recv(timeout=WITHIN_S)
    except ConnectionClosed as closed:
        frame = closed.rcvd
    assert frame is not None
    return frame.code, frame.reason


def media(clip: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """A clip as PNG pictures with their times in ns, 10 a second, and PCM16 at RATE."""
    decoded = read_clip(clip, 20)
    assert decoded.pictures is not None
    assert decoded.sound is not None
    pictures = [
        (round(time_s * 1e9), cv2.imencode(".png", frame[:, :, ::-1])[1].tobytes())
        for time_s, frame in zip(decoded.pictures.times_s, decoded.pictures.frames, strict=True)
    ]
    mono = decoded.sound.samples.mean(0)
    at = np.arange(0, len(mono), decoded.sound.sample_rate / RATE)
    samples = np.interp(at, np.arange(len(mono)), mono)
    return pictures, (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def messages(pictures: list[tuple[int, bytes]], sound: bytes, first_ns: int) -> list[bytes]:
    """The clip's messages in order of time: each picture, and 50 pieces of sound a second."""
    piece = RATE // 50 * 2
    timed = [(t, HEADER.pack(PICTURE, 0, 0, i, first_ns + t) + data)
             for i, (t, data) in enumerate(pictures)]  # fmt: skip
    for number, begin in enumerate(range(0, len(sound), piece)):
        at = number * 20_000_000
        data = HEADER.pack(SOUND, 0, 1, number, first_ns + at) + sound[begin : begin + piece]
        timed.append((at, data))
    return [data for _, data in sorted(timed)]


def metric(service: httpx.Client, name: str) -> float:
    lines = service.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[-1])


def wav(sound: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(sound)
    return file.getvalue()


def test_a_streamed_clip_is_answered_as_its_upload(service: httpx.Client, clip: bytes) -> None:
    pictures, sound = media(clip)
    seconds = max(pictures[-1][0] / 1e9, len(sound) / 2 / RATE)
    with socket_of(service) as socket:
        ready = start(socket, window_s=seconds + 0.1, hop_s=50)
        assert (ready["type"], ready["model"], ready["hop_s"]) == ("ready", "avdigits", 50)
        for message in messages(pictures, sound, 10**18):
            socket.send(message)
        socket.send('{"type": "finalize"}')
        answer = receive(socket)
    assert (answer["type"], answer["final"], answer["skipped"]) == ("answer", True, 0)
    assert answer["window"]["newest_ns"].keys() == {"frames", "audio"}
    length = seconds + 0.1
    centres = [((2 * part + 1) / 8 - 1) * length + seconds for part in range(4)]
    chosen = [max([p for p in pictures if p[0] / 1e9 <= c] or pictures[:1])[1] for c in centres]
    uploaded = service.post(
        "/v1/classify",
        files=[
            ("audio", wav(sound)),
            *(("frames", (f"{i}.png", data)) for i, data in enumerate(chosen)),
        ],
        data={"attention": "none"},
    ).json()
    streamed = answer["result"]
    assert streamed["prediction"]["label"] == uploaded["prediction"]["label"]
    assert streamed["contributions"] == uploaded["contributions"]
    assert metric(service, 'scmrl_stream_windows_total{outcome="answered"}') > 0


def test_answers_come_for_each_hop_and_a_summary_at_the_end(
    service: httpx.Client, clip: bytes
) -> None:
    pictures, sound = media(clip)
    with socket_of(service) as socket:
        start(socket, window_s=2, hop_s=0.25, top_k=2, attention="grid")
        began = time.monotonic_ns()
        for message in messages(pictures, sound, began):
            at = HEADER.unpack_from(message)[4]
            time.sleep(max(0, (at - time.monotonic_ns()) / 1e9))
            socket.send(message)
        socket.send('{"type": "close"}')
        received = []
        while not received or received[-1]["type"] != "summary":
            received.append(receive(socket))
        code, _ = close_of(socket)
    *answers, summary = received
    assert code == 1000
    assert [answer["number"] for answer in answers] == list(range(len(answers)))
    assert len(answers) >= 2
    assert answers[-1]["final"]
    assert all(len(answer["result"]["probabilities"]) == 2 for answer in answers)
    assert all(len(answer["smoothed"]) == 10 for answer in answers)
    assert "spatial" in answers[0]["result"]["attention"]["visual"]
    assert summary["answers"] == len(answers)
    assert summary["messages"]["frames"] == len(pictures)


@pytest.mark.parametrize(
    ("first", "code", "reason"),
    [
        (b"binary", 4400, "must be a text"),
        ("{}", 4400, "start: type"),
        ('{"type": "start", "inputs": []}', 4400, "start: inputs: must have at least 1"),
        ('{"type": "start", "inputs": [{"field": "video"}]}', 4400,
         "start: inputs.0: field and format must be frames (jpeg, png, h264), audio (pcm16, "
         "opus) or values over time (float32)"),
        ('{"type": "start", "inputs": [{"field": "frames"}], "model": "none"}', 4404, "none"),
        ('{"type": "start", "inputs": [{"field": "frames"}], "steps": true}', 4400,
         "start: steps: must be a number, not true or false"),
    ],
)  # fmt: skip
def test_a_session_with_an_invalid_start_is_closed_with_the_reason(
    service: httpx.Client, first: str | bytes, code: int, reason: str
) -> None:
    with socket_of(service) as socket:
        socket.send(first)
        closed = close_of(socket)
    assert closed[0] == code
    assert reason in closed[1]


def test_garbage_closes_its_own_session_only(service: httpx.Client, clip: bytes) -> None:
    pictures, _ = media(clip)
    with socket_of(service) as good, socket_of(service) as bad:
        start(good, hop_s=50)
        start(bad, hop_s=50)
        bad.send(b"garbage")
        assert close_of(bad)[0] == 4400
        good.send(HEADER.pack(PICTURE, 0, 0, 0, 5) + pictures[0][1])
        good.send('{"type": "finalize"}')
        assert receive(good)["type"] == "answer"


def test_an_invalid_picture_is_a_problem_and_the_session_stays_open(
    service: httpx.Client, clip: bytes
) -> None:
    pictures, _ = media(clip)
    with socket_of(service) as socket:
        start(socket, hop_s=50, window_s=0.5)
        good = pictures[0][1]
        sent = (good, good[: len(good) // 4], good)
        for number, picture in enumerate(sent, start=40):
            socket.send(HEADER.pack(PICTURE, 0, 0, number, (number - 40) * 200_000_000) + picture)
        socket.send('{"type": "finalize"}')
        problem = receive(socket)
        assert (problem["type"], problem["status"], problem["error"]) == (
            "problem", 422, "unusable",
        )  # fmt: skip
        assert "message with sequence number 41, captured at 200000000 ns" in problem["detail"]
        socket.send(HEADER.pack(PICTURE, 0, 0, 43, 10**9) + good)
        socket.send('{"type": "finalize"}')
        assert receive(socket)["type"] == "answer"


def test_a_silent_session_is_closed_and_keepalive_holds_it(service: httpx.Client) -> None:
    with socket_of(service) as socket:
        start(socket)
        began = time.monotonic()
        for _ in range(4):
            time.sleep(1)
            socket.send('{"type": "keepalive"}')
        code, reason = close_of(socket)
    assert (code, reason) == (4408, "no message for 3 s")
    assert time.monotonic() - began > 6


def test_sessions_are_bounded_and_counted(service: httpx.Client) -> None:
    wait_until(lambda: metric(service, "scmrl_stream_sessions ") == 0)
    with socket_of(service) as one, socket_of(service) as two, socket_of(service) as three:
        for socket in (one, two, three):
            start(socket)
        assert metric(service, "scmrl_stream_sessions ") == 3
        with socket_of(service) as surplus:
            code, reason = close_of(surplus)
    assert code == 4429
    assert "3 streams are open" in reason
    wait_until(lambda: metric(service, "scmrl_stream_sessions ") == 0)


@pytest.mark.parametrize(("windows", "expected"), [(0, 2 * 3), (5, 5)])
def test_sessions_share_turns_two_for_each_decoding_process_unless_set(
    weights: Path, windows: int, expected: int
) -> None:
    settings = Settings(models=weights, decode_workers=3, stream_windows_in_flight=windows)
    turns = create_app(settings).state.scmrl.streams.turns

    async def take_all() -> int:
        async with AsyncExitStack() as stack:
            taken = 0
            while not turns.are_taken:
                await stack.enter_async_context(turns.take())
                taken += 1
            return taken

    assert asyncio.run(take_all()) == expected


def test_a_client_that_never_reads_does_not_delay_others(
    service: httpx.Client, clip: bytes
) -> None:
    pictures, _ = media(clip)
    with socket_of(service) as socket:
        start(socket, hop_s=0.05, attention="overlay")
        for number in range(60):
            at = number * 100_000_000
            socket.send(HEADER.pack(PICTURE, 0, 0, number, at) + pictures[number % 20][1])
        assert service.post("/v1/classify", files={"clip": clip}).status_code == 200


def test_too_many_messages_close_it(service: httpx.Client) -> None:
    with socket_of(service) as socket:
        start(socket)
        with suppress(ConnectionClosed):  # it may be closed before all is sent
            for _ in range(3000):
                socket.send('{"type": "keepalive"}')
        assert close_of(socket)[0] == 4430


def test_a_browser_sends_its_key_as_a_subprotocol(weights: Path) -> None:
    encoded = base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("=")
    token = Subprotocol(f"scmrl.key.{encoded}")
    wrong = Subprotocol("scmrl.key.bm9uZQ")
    keys = SecretStr(f"anna:{KEY}")
    settings = Settings(models=weights, compile="off", api_keys=keys, stream_sessions_per_key=1)
    with listening(create_app(settings)) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        with socket_of(client, subprotocols=[Subprotocol("scmrl.stream.v1"), token]) as socket:
            assert socket.subprotocol == "scmrl.stream.v1"
            assert start(socket)["type"] == "ready"
            header = {"Authorization": f"Bearer {KEY}"}
            with socket_of(client, additional_headers=header) as second:
                assert close_of(second) == (4429, "the key has 1 streams open already")
        for offered in ([Subprotocol("scmrl.stream.v1")], [wrong]):
            with pytest.raises(InvalidStatus) as caught, socket_of(client, subprotocols=offered):
                pass
            assert caught.value.response.status_code == 401


def test_each_end_has_a_code_and_one_line_in_the_log(
    weights: Path, clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    pictures, _ = media(clip)
    app = create_app(Settings(models=weights, compile="off", stream_max_s=1.5))
    caplog.set_level("INFO", "scmrl.access")
    with listening(app) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        with socket_of(client) as socket, socket_of(client) as other:
            start(socket, hop_s=50)
            socket.send(HEADER.pack(PICTURE, 0, 0, 0, 0) + pictures[0][1])
            assert close_of(socket) == (4409, "the stream is 1.5 s long")
            start(other)
            with suppress(ConnectionClosed):
                other.send(bytes(MIB + 1))
            assert close_of(other)[0] == 1009
        with socket_of(client) as socket:
            start(socket)
            socket.socket.shutdown(SHUT_RDWR)  # no close frame
        wait_until(lambda: len(app.state.scmrl.streams) == 0)
        with socket_of(client) as socket:
            start(socket, hop_s=50)
            app.state.scmrl.in_flight.drain()
            socket.send(HEADER.pack(PICTURE, 0, 0, 0, 0) + pictures[0][1])
            socket.send('{"type": "finalize"}')
            code, reason = close_of(socket)
        assert (code, "shutting down" in reason) == (1012, True)
        lines = [r.getMessage() for r in caplog.records if "/v1/stream" in r.getMessage()]
    for code, why, line in zip(
        (4409, 1009, 1006, 1012),
        ("the stream is 1.5 s long", "too large", "connection was lost", "shutting down"),
        lines,
        strict=True,
    ):
        assert f" close_code={code}" in line
        assert why in line.partition(" closed=")[2]
    assert "messages={'frames': 1, 'audio': 0}" in lines[0]
