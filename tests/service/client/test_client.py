"""`Client` and `AsyncClient`, against running services."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import SecretStr
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from service.app import create_app
from service.classification import schemas
from service.client import (
    Answer,
    AsyncClient,
    Classification,
    ClassifyFields,
    Client,
    ModelSummary,
    PictureInput,
    ProblemError,
    Ready,
    Retries,
    SeriesInput,
    SoundInput,
    Stream,
    StreamClosedError,
    StreamProblem,
    Summary,
    stream_messages,
)
from service.client.stream_messages import HEADER, PROTOCOL, MediaMessages
from service.settings import Settings
from service.streaming import messages
from tests.service.conftest import CLIPS
from tests.service.running_server import listening

CLIP = CLIPS / "digit-7.mp4"
JPEG = (CLIPS.parent / "seeds" / "rgb.jpg").read_bytes()
KEY = "anna-q7Zt4mXv9RkB2wLc8NpY"
SECOND = 10**9
#: A second of a tone, PCM16 at 8 kHz.
TONE = (9000 * np.sin(np.arange(8000) / 3)).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def client(service: httpx.Client) -> Iterator[Client]:
    with Client(str(service.base_url)) as one:
        yield one


@pytest.fixture
def keyed() -> Iterator[str]:
    """The address of a service with a key, and without a checkpoint."""
    app = create_app(Settings(models=Path("/nowhere"), api_keys=SecretStr(f"anna:{KEY}")))
    with listening(app) as http:
        yield str(http.base_url)


def test_it_answers_as_the_service_does(client: Client, service: httpx.Client) -> None:
    options: dict[str, Any] = {
        "steps": 2, "attention": "overlay", "class_activation": "overlay",
        "contributions": "leave_one_out", "exit_margin": 1.0, "diagnostics": True,
        "steps_trace": True, "degrade": False,
    }  # fmt: skip
    answer = client.classify(model="avdigits", clip=CLIP, **options)
    form = {name: json.dumps(value).strip('"') for name, value in options.items()}
    raw = service.post("/v1/classify", files={"clip": CLIP.read_bytes()}, data=form).json()
    ours = answer.model_dump(exclude_none=True)
    for varies in ("id", "timing_ms", "batch_size"):
        assert ours.pop(varies) is not None
        raw.pop(varies)
    assert ours == raw
    assert answer.steps_trace is not None
    assert (answer.steps, len(answer.steps_trace)) == (2, 2)


def test_several_clips_are_answered_in_their_order_or_have_their_problems(
    client: Client, service: httpx.Client
) -> None:
    clips: list[ClassifyFields] = [
        {"clip": CLIPS / "digit-3.mp4"},
        {"clip": b"Dear diary"},
        {"video": CLIP, "audio": CLIP, "steps": 2},
        {"streams": {"visual": [JPEG, JPEG]}, "top_k": None},
    ]
    options: ClassifyFields = {"top_k": 1, "steps": 3, "attention": "none"}

    async def ask() -> list[Classification | ProblemError]:
        async with AsyncClient(str(service.base_url)) as one:
            with pytest.raises(ProblemError, match="unknown-model"):
                await one.classify_batch(clips, model="nobody")
            return await one.classify_batch(clips, model="avdigits", **options)

    for three, bad, seven, pictures in (
        client.classify_batch(clips, **options),
        asyncio.run(ask()),
    ):
        assert isinstance(three, Classification)
        assert isinstance(seven, Classification)
        assert isinstance(pictures, Classification)
        assert [three.steps, seven.steps, pictures.steps] == [3, 2, 3]
        for answer, clip, steps in ((three, CLIPS / "digit-3.mp4", 3), (seven, CLIP, 2)):
            alone = client.classify(clip=clip, **{**options, "steps": steps})
            assert answer.contributions["audio"] == pytest.approx(alone.contributions["audio"])
        assert len(pictures.probabilities) == 1
        assert not pictures.streams["audio"].used
        assert isinstance(bad, ProblemError)
        assert (bad.kind, bad.problem.field, bad.problem.id) == (
            "unknown-format", "clip", three.id.replace(".0", ".1"),
        )  # fmt: skip
    with pytest.raises(ProblemError) as caught:
        client.classify_batch(clips, steps=99)
    assert caught.value.problem.field == "steps"
    with pytest.raises(TypeError, match="clip 0: must be a dictionary of the arguments"):
        client.classify_batch(["CLIP.mp4"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="clip 1 has no file"):
        client.classify_batch([{"clip": CLIP}, {"steps": 2}])
    with pytest.raises(ValueError, match="clips is empty"):
        client.classify_batch([])
    with pytest.raises(TypeError, match="audio: files belong to a clip"):
        client.classify_batch(clips, audio=CLIP)


def test_files_are_bytes_paths_or_open_files(client: Client, tmp_path: Path) -> None:
    with CLIP.open("rb") as file:
        parts = client.classify(video=file, audio=str(CLIP), top_k=1, attention="none")
    assert parts.streams["audio"].used
    assert parts.streams["visual"].used
    odd = tmp_path / os.fsdecode(b'caf\xe9"\n.mp4')  # not in UTF-8
    odd.write_bytes(CLIP.read_bytes())
    assert client.classify(clip=odd, attention="none").streams["visual"].used
    streams = client.classify(streams={"visual": [JPEG, JPEG], "audio": CLIP.read_bytes()})
    frames = client.classify(frames=[JPEG, JPEG], audio=CLIP)
    assert streams.contributions == frames.contributions
    with pytest.raises(TypeError, match="audio: the file must be open in binary"):
        client.classify(audio=(CLIPS.parent / "NOTICE.md").open())  # type: ignore[typeddict-item]
    with pytest.raises(TypeError, match="takes no colour; it takes clip, video"):
        client.classify(colour=1)  # type: ignore[call-arg]
    with pytest.raises(FileNotFoundError):
        client.classify(clip="/nowhere.mp4")


def test_models_cards_and_problems_are_typed(client: Client) -> None:
    assert [(m.name, m.default, m.status) for m in client.models()] == [
        ("avdigits", True, "ready"),
        ("strict", False, "ready"),
    ]
    assert client.card("strict")["missing_streams"] is False
    with pytest.raises(ProblemError) as caught:
        client.classify(clip=CLIP, steps=99)
    error, problem = caught.value, caught.value.problem
    assert (error.kind, error.status, problem.field) == ("invalid-field", 422, "steps")
    assert "1 to 64" in str(error)
    assert problem.id is not None
    with pytest.raises(ProblemError) as caught:
        client.classify(model="no body", clip=CLIP)
    assert caught.value.kind == "unknown-model"


def test_the_asynchronous_client_answers_alike(client: Client, service: httpx.Client) -> None:
    async def classify() -> tuple[list[Classification], list[ModelSummary], dict[str, Any]]:
        async with AsyncClient(str(service.base_url)) as one:
            calls = (one.classify(clip=CLIP, top_k=n) for n in (1, 2, 3))
            answers = await asyncio.gather(*calls)
            with pytest.raises(ProblemError, match="1 to 64"):
                await one.classify(clip=CLIP, steps=99)
            return answers, await one.models(), await one.card("strict")

    answers, models, card = asyncio.run(classify())
    assert [len(answer.probabilities) for answer in answers] == [1, 2, 3]
    alone = client.classify(clip=CLIP, top_k=1)
    for stream, logits in answers[0].contributions.items():
        # Rounding differs with the size of a batch.
        assert logits == pytest.approx(alone.contributions[stream], abs=1e-4)
    assert models == client.models()
    assert card == client.card("strict")


def test_a_key_is_sent_and_a_refusal_says_why(keyed: str) -> None:
    inputs = [PictureInput()]
    with Client(keyed) as stranger:
        with pytest.raises(ProblemError) as caught:
            stranger.models()
        assert caught.value.kind == "key-needed"
        with pytest.raises(ProblemError) as caught, stranger.stream(inputs):
            pass
        assert (caught.value.kind, caught.value.status) == ("key-needed", 401)
    with Client(keyed, key=KEY, retries=Retries(0)) as anna:
        anna.models()
        with pytest.raises(StreamClosedError) as closed, anna.stream(inputs):
            pass
        assert closed.value.code == 1013  # no checkpoint

    async def refused() -> None:
        async with AsyncClient(keyed) as stranger, stranger.stream(inputs):
            pass

    with pytest.raises(ProblemError) as caught:
        asyncio.run(refused())
    assert caught.value.kind == "key-needed"


def test_an_address_or_a_key_that_no_request_can_have_is_refused_at_once() -> None:
    for address in (
        "127.0.0.1:8000",
        "http://[::1",
        " http://here",
        "http://here/?page=1",
        "ws://x",
    ):
        with pytest.raises(ValueError, match="must be the address of a service"):
            Client(address)
    for key in (f"{KEY}\n", "schl\u00fcssel", f"{KEY} {KEY}"):
        with pytest.raises(ValueError, match="key: has characters") as caught:
            AsyncClient("http://here", key=key)
        assert KEY not in str(caught.value)


def test_names_that_lead_elsewhere_are_no_checkpoints(client: Client) -> None:
    """httpx resolves `..` in a path: the default checkpoint would answer."""
    for name in (".", ".."):
        with pytest.raises(ValueError, match="is not the name of a checkpoint"):
            client.classify(model=name, clip=CLIP)
        with pytest.raises(ValueError, match="is not the name of a checkpoint"):
            client.card(name)


def send(stream: Stream) -> None:
    for tenth in range(10):
        at_ns = 5 * SECOND + tenth * SECOND // 10
        stream.send_sound(TONE[tenth * 1600 : (tenth + 1) * 1600], at_ns)
        stream.send_picture(JPEG, at_ns)
    stream.finalize()


def test_what_is_sent_without_a_time_has_just_been_captured() -> None:
    """The time of a message is that of its first sample."""
    second = {
        "audio": (SoundInput(sample_rate=8000, channels=2), bytes(2 * 2 * 8000)),
        "force": (SeriesInput(field="force", sample_rate=200), bytes(4 * 200)),
    }
    media = MediaMessages([*(each for each, _ in second.values()), PictureInput()])
    before = time.monotonic_ns()
    sent = {field: media.series(field, data, None) for field, (_, data) in second.items()}
    sent["frames"] = media.picture(JPEG, None)
    after = time.monotonic_ns()
    for field, message in sent.items():
        *_, time_ns = HEADER.unpack(message[: HEADER.size])
        ended = time_ns + (SECOND if field in second else 0)
        assert before <= ended <= after, field
    *_, time_ns = HEADER.unpack(media.sound(TONE, 5)[: HEADER.size])
    assert time_ns == 5


def test_a_stream_answers_until_it_is_closed(client: Client) -> None:
    inputs = [SoundInput(sample_rate=8000), PictureInput()]
    with client.stream(inputs, hop_s=60, top_k=1, max_unacknowledged=1, model=None) as stream:
        assert (stream.ready.model, stream.ready.hop_s) == ("avdigits", 60)
        stream.keepalive()
        with pytest.raises(TimeoutError):
            stream.receive(timeout_s=0.01)
        sender = threading.Thread(target=send, args=(stream,))
        sender.start()
        received = []
        for message in stream:
            assert isinstance(message, Answer), message
            received.append(message)
            if len(received) == 1:
                stream.begin_segment()
                stream.send_sound(TONE, SECOND)
                stream.close()
        sender.join()
        with pytest.raises(StreamClosedError):
            stream.send_picture(JPEG)
    assert [(a.number, a.final, a.segment) for a in received] == [(0, True, 0), (1, True, 1)]
    assert received[0].window.newest_ns == {"audio": 6 * SECOND, "frames": 59 * SECOND // 10}
    assert len(received[0].result.probabilities) == 1
    assert stream.summary is not None
    assert stream.summary.messages == {"audio": 11, "frames": 10}


def test_answers_are_acknowledged_so_that_more_come(client: Client) -> None:
    inputs = [SoundInput(sample_rate=8000)]
    with client.stream(inputs, window_s=1, hop_s=0.05, max_unacknowledged=1) as stream:
        numbers = []
        for second in range(100):
            stream.send_sound(TONE, second * SECOND)
            try:
                message = stream.receive(timeout_s=0.5)
            except TimeoutError:
                continue  # the service was busy with the window before
            assert isinstance(message, Answer), message
            numbers.append(message.number)
            if len(numbers) == 3:
                break
    assert numbers == [0, 1, 2]


def test_an_invalid_start_closes_the_stream(client: Client) -> None:
    invalid = client.stream([PictureInput()], window_s=1000)
    with pytest.raises(StreamClosedError, match="window_s") as caught, invalid:
        pass
    assert caught.value.code == 4400
    with client.stream([PictureInput()]) as stream:
        with pytest.raises(ValueError, match="no input for audio"):
            stream.send_sound(TONE)
        for time_ns in (-1, 1 << 64):
            with pytest.raises(ValueError, match="must be 0 or more"):
                stream.send_picture(JPEG, time_ns)
        stream.send_picture(JPEG, 1 << 63)  # which the service refuses
        with pytest.raises(StreamClosedError, match="capture time"):
            stream.receive(timeout_s=60)


def test_an_asynchronous_stream_does_the_same(service: httpx.Client) -> None:
    async def run() -> tuple[list[Answer], Summary | None]:
        received = []
        inputs = [SoundInput(sample_rate=8000), PictureInput()]
        async with (
            AsyncClient(str(service.base_url)) as client,
            client.stream(inputs, hop_s=60) as stream,
        ):
            await stream.keepalive()
            await stream.send_sound(TONE, time.monotonic_ns() - SECOND)
            await stream.send_picture(JPEG)
            await stream.finalize()
            async for message in stream:
                assert isinstance(message, Answer), message
                received.append(message)
                await stream.close()
            return received, stream.summary

    received, summary = asyncio.run(run())
    assert [answer.number for answer in received] == [0]
    assert received[0].behind_ms >= 0
    assert received[0].result.streams["visual"].used
    assert summary is not None
    assert summary.messages == {"audio": 1, "frames": 1}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (schemas.Classification, Classification),
        (schemas.ModelSummary, ModelSummary),
        (messages.Ready, Ready),
        (messages.Answer, Answer),
        (messages.Failed, StreamProblem),
        (messages.Summary, Summary),
    ],
)
def test_the_types_have_every_member_that_the_service_answers(theirs: Any, ours: Any) -> None:
    def members(schema: Any, defs: dict[str, Any]) -> Any:
        """The names of all members, at every depth."""
        if isinstance(schema, list):
            return [each for each in (members(item, defs) for item in schema) if each]
        if not isinstance(schema, dict):
            return None
        if "$ref" in schema:
            return members(defs[schema["$ref"].rpartition("/")[2]], defs)
        if "properties" in schema:
            return {name: members(each, defs) for name, each in schema["properties"].items()}
        inner = [schema.get(key) for key in ("anyOf", "items", "additionalProperties")]
        return members(inner, defs)

    expected, actual = theirs.model_json_schema(), ours.model_json_schema()
    assert members(actual, actual.get("$defs", {})) == members(expected, expected.get("$defs", {}))


def test_members_of_a_newer_service_are_kept() -> None:
    text = '{"name": "a", "default": true, "status": "ready", "colour": "red"}'
    model = ModelSummary.model_validate_json(text)
    assert model.model_extra == {"colour": "red"}
    assert json.loads(model.model_dump_json(exclude_none=True)) == json.loads(text)


def test_a_stream_whose_answers_were_not_read_is_left_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service's close frame is behind the answers, and would be waited for: 10 s by default."""
    monkeypatch.setattr(stream_messages, "_CLOSE_S", 0.1)
    ready = Ready(id="1", model="avdigits", window_s=1, hop_s=1).model_dump_json()

    def answer(socket: ServerConnection) -> None:
        socket.recv()
        socket.send(ready)
        with suppress(ConnectionClosed):
            while True:
                socket.send("{}")

    with serve(answer, "127.0.0.1", 0, subprotocols=[Subprotocol(PROTOCOL)]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.socket.getsockname()[1]}") as client:
            with client.stream([PictureInput()]):
                time.sleep(0.1)  # more than are buffered have come
                left = time.monotonic()
            assert time.monotonic() - left < 5
