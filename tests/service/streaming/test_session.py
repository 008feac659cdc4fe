"""A session answers the newest window, one at a time, and its buffers are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel

from service.classification.options import Options
from service.classification.schemas import (
    Classification,
    ModelName,
    Prediction,
    Probability,
    Timing,
)
from service.classification.upload_fields import InputFiles
from service.errors import Error, Problem
from service.streaming.messages import (
    HEADER,
    NEW_SEGMENT,
    PICTURE,
    SOUND,
    Answer,
    Failed,
    StreamError,
    Summary,
    parse_control,
    parse_media,
    parse_start,
)
from service.streaming.session import Pace, Session
from service.streaming.turns import Turns

MS = 1_000_000
START = """{"type": "start", "inputs": [{"field": "frames"},
    {"field": "audio", "sample_rate": 8000}], "hop_s": 0.5, "window_s": 2}"""


def picture(time_ms: int, payload: bytes = b"jpeg", flags: int = 0) -> bytes:
    return HEADER.pack(PICTURE, flags, 0, 7, time_ms * MS) + payload


def sound(time_ms: int, count: int = 80) -> bytes:
    return HEADER.pack(SOUND, 0, 1, 7, time_ms * MS) + bytes(2 * count)


def result(probability: float) -> Classification:
    first = Probability(label="a", index=0, probability=probability)
    second = Probability(label="b", index=1, probability=1 - probability)
    return Classification(
        id="1", model=ModelName(name="m", version="1"), abstained=False,
        prediction=Prediction(label="a", index=0, probability=probability),
        probabilities=[first, second], contributions={}, streams={}, steps=4, degraded=False,
        batch_size=1, timing_ms=Timing(decode=0, preprocess=0, queue=0, inference=0, total=0),
    )  # fmt: skip


@dataclass
class Network:
    """Answers when a test sets the result of a gate. `files`: of each request."""

    files: list[InputFiles] = field(default_factory=list)
    gates: list[asyncio.Future[Classification]] = field(default_factory=list)

    async def classify(self, files: InputFiles, options: Options) -> Classification:
        self.files.append(files)
        self.gates.append(asyncio.get_running_loop().create_future())
        return await self.gates[-1]


@dataclass
class Client:
    """The session's other end."""

    session: Session
    network: Network
    messages: list[BaseModel]
    running: asyncio.Task[None]

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def send(self, *datas: bytes) -> None:
        for data in datas:
            self.session.receive_media(data)
        await self.settle()

    async def control(self, text: str) -> None:
        self.session.receive_control(parse_control(text))
        await self.settle()

    async def answer(self, probability: float = 0.9) -> None:
        self.network.gates[-1].set_result(result(probability))
        await self.settle()

    async def fail(self, problem: Problem) -> None:
        self.network.gates[-1].set_exception(problem)
        await self.settle()

    @property
    def answers(self) -> list[Answer]:
        return [message for message in self.messages if isinstance(message, Answer)]


@asynccontextmanager
async def session(
    turns: Turns | None = None,
    is_reading: asyncio.Event | None = None,
    **changes: Any,
) -> AsyncIterator[Client]:
    """`is_reading`: whether its client reads what is sent; by default it does."""
    network, messages = Network(), list[BaseModel]()

    async def send(message: BaseModel) -> None:
        if is_reading is not None:
            await is_reading.wait()
        messages.append(message)

    start = parse_start(START).model_copy(update=changes)
    turns = turns or Turns(1)
    session = Session(start, Pace(2.0, 0.5, 4), network.classify, send, 1 << 20, turns)
    running = asyncio.create_task(session.run())
    try:
        yield Client(session, network, messages, running)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def run(test: Callable[[], Any]) -> Callable[[], None]:
    def test_in_a_loop() -> None:
        asyncio.run(test())

    test_in_a_loop.__name__ = test.__name__
    test_in_a_loop.__doc__ = test.__doc__
    return test_in_a_loop


@run
async def test_a_window_is_answered_for_each_hop() -> None:
    async with session() as client:
        await client.send(picture(1000), sound(1000))
        assert not client.network.files  # less than a hop
        await client.send(picture(1500))
        assert set(client.network.files[0]) == {"frames", "audio"}
        await client.answer()
        (answer,) = client.answers
        assert (answer.number, answer.final, answer.skipped, answer.segment) == (0, False, 0, 0)
        assert (answer.window.begin_ns, answer.window.end_ns) == (-500 * MS, 1500 * MS)
        assert answer.window.newest_ns == {"frames": 1500 * MS, "audio": 1010 * MS}
        assert answer.behind_ms >= 0
        await client.send(picture(1900))
        assert len(client.network.files) == 1


@run
async def test_the_latest_wins_and_hops_meanwhile_are_skipped() -> None:
    async with session() as client:
        await client.send(picture(0), picture(500))
        await client.send(*(picture(time, str(time).encode()) for time in range(600, 2600, 100)))
        assert len(client.network.files) == 1, "one request at a time"
        await client.answer()
        assert len(client.network.files) == 2
        assert client.network.files[1]["frames"][-1] in (b"2200", b"2300")
        await client.answer()
        assert client.answers[1].window.end_ns == 2500 * MS
        assert client.answers[1].skipped == 3


@run
async def test_sessions_take_turns_and_the_one_that_waited_answers_about_the_newest() -> None:
    turns = Turns(1)
    async with session(turns) as first, session(turns) as second:
        await first.send(picture(0), picture(500))
        await second.send(picture(0), picture(500))
        assert (len(first.network.files), len(second.network.files)) == (1, 0)
        assert turns.waiting == 1
        await second.send(picture(900))
        await first.answer()
        assert turns.waiting == 0
        await second.answer()
        assert second.answers[0].window.end_ns == 900 * MS


@run
async def test_a_session_that_ends_leaves_the_turns_to_others() -> None:
    turns = Turns(1)
    async with session(turns) as first:
        async with session(turns) as second:
            await first.send(picture(0), picture(500))
            await second.send(picture(0), picture(500))
        assert turns.waiting == 0, "it has ended while it waited"
        assert turns.are_taken
    assert not turns.are_taken, "it has ended while its window was classified"


@run
async def test_a_client_that_does_not_read_holds_no_turn() -> None:
    turns, is_reading = Turns(1), asyncio.Event()
    async with session(turns, is_reading) as first, session(turns) as second:
        await first.send(picture(0), picture(500))
        await first.answer()
        assert not first.answers
        await second.send(picture(0), picture(500))
        await second.answer()
        assert len(second.answers) == 1
        is_reading.set()
        await first.settle()
        await first.send(picture(1000))
        await first.fail(Problem(Error.UNUSABLE, "no clip"))
        assert len(first.messages) == 2


@run
async def test_a_segment_without_a_window_ends_the_turn_of_the_one_before() -> None:
    turns = Turns(1)
    async with session(turns) as first, session(turns) as second:
        await first.send(picture(0), picture(500))
        await second.send(picture(0), picture(500))
        await second.send(picture(60_000, bytes(2 << 20)))  # more than its buffer holds
        await first.answer()
        assert not second.network.files
        assert not turns.are_taken
        await second.send(picture(60_000), picture(60_500))
        await second.answer()
        assert [answer.segment for answer in second.answers] == [1]


@run
async def test_no_answer_is_sent_while_too_many_are_unacknowledged() -> None:
    async with session(max_unacknowledged=1) as client:
        await client.send(picture(0), picture(500))
        await client.answer()
        await client.send(picture(1000), picture(1500))
        assert len(client.network.files) == 1
        await client.control('{"type": "ack", "answer": 0}')
        assert len(client.network.files) == 2


@run
async def test_finalize_answers_at_once_and_close_sends_a_summary() -> None:
    async with session() as client:
        await client.send(picture(0))
        await client.control('{"type": "finalize"}')
        await client.answer()
        assert client.answers[0].final
        await client.control('{"type": "finalize"}')
        assert len(client.network.files) == 1, "nothing new"
        await client.send(picture(100))
        await client.control('{"type": "close"}')
        await client.answer()
        summary = client.messages[-1]
        assert isinstance(summary, Summary)
        assert (summary.answers, summary.segments) == (2, 1)
        assert summary.messages == {"frames": 2, "audio": 0}


@pytest.mark.parametrize("restart_ms", [0, 60_000])
def test_a_jump_of_time_begins_a_segment(restart_ms: int) -> None:
    async def jump() -> None:
        async with session() as client:
            await client.send(picture(30_000), picture(30_500))
            await client.answer(0.9)
            await client.send(picture(restart_ms), picture(restart_ms + 500))
            assert client.network.files[1]["frames"] == (b"jpeg",) * 4
            await client.answer(0.3)
            first, second = client.answers
            assert (first.segment, second.segment) == (0, 1)
            assert second.smoothed["a"] == 0.3, "the segment before does not count"

    asyncio.run(jump())


@run
async def test_a_clock_that_is_put_back_a_little_begins_a_segment() -> None:
    async with session() as client:
        await client.send(picture(30_000), picture(30_500))
        await client.answer()
        await client.send(*(picture(at_ms) for at_ms in range(29_000, 29_600, 100)))
        assert client.session.counts.segments == 2
        await client.send(picture(30_000))
        await client.answer()
        first, second = client.answers
        assert (first.segment, second.segment) == (0, 1)
        assert second.window.newest_ns["frames"] == 30_000 * MS
        assert second.dropped["frames"] == 5, "before it was known that the clock was put back"


@run
async def test_the_client_may_begin_a_segment() -> None:
    async with session() as client:
        await client.send(picture(0), picture(100, flags=NEW_SEGMENT), picture(600))
        await client.answer()
        assert client.answers[0].segment == 1


@run
async def test_probabilities_are_smoothed_over_all_labels() -> None:
    async with session(top_k=1) as client:
        await client.send(picture(0), picture(500))
        await client.answer(0.9)
        await client.send(picture(1000))
        await client.answer(0.5)
        assert [len(answer.result.probabilities) for answer in client.answers] == [1, 1]
        assert client.answers[1].smoothed == pytest.approx({"a": 0.7, "b": 0.3})


@run
async def test_late_messages_are_dropped_and_counted() -> None:
    async with session() as client:
        await client.send(picture(1000), picture(900), picture(1500))
        await client.answer()
        assert client.answers[0].dropped == {"frames": 1, "audio": 0}
        await client.send(picture(2000))
        await client.answer()
        assert client.answers[1].dropped == {"frames": 0, "audio": 0}


@run
async def test_a_problem_is_sent_once_and_the_session_stays_open() -> None:
    async with session() as client:
        await client.send(picture(0), picture(500))
        for time in (1000, 1500):
            await client.fail(Problem(Error.FULL, "full", retry_after_s=1))
            await client.send(picture(time))
        await client.answer()
        assert [type(message) for message in client.messages] == [Failed, Answer]


@run
async def test_a_lasting_problem_ends_it() -> None:
    async with session() as client:
        await client.send(picture(0), picture(500))
        await client.fail(Problem(Error.STOPPING, "stopping"))
        with pytest.raises(Problem, match="stopping"):
            await client.running


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the header alone has 16"),
        (HEADER.pack(PICTURE, 0, 0, 0, 0), "the header alone has 16"),
        (HEADER.pack(PICTURE, 0, 2, 0, 0) + b"x", "no input 2; `inputs` has 2, numbered from 0"),
        (HEADER.pack(SOUND, 0, 0, 0, 0) + b"x", "kind 2, but input 0 takes kind 1"),
        (HEADER.pack(9, 0, 1, 0, 0) + b"xx", "input 1 takes kind 2"),
        (HEADER.pack(SOUND, 0, 1, 0, 0) + b"xxx", "whole samples"),
        (HEADER.pack(PICTURE, 0, 0, 0, 1 << 63) + b"x", "2\\^63"),
    ],
)
def test_media_that_are_invalid_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(StreamError, match=reason):
        parse_media(data, parse_start(START))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ('{"type": "stop"}', "type"),
        ('{"type": "start", "inputs": []}', "inputs"),
        ('{"type": "start", "inputs": [{"field": "clip"}]}', "inputs.0"),
        ('{"type": "start", "inputs": [{"field": "frames"}, {"field": "frames"}]}', "twice"),
        ('{"type": "start", "inputs": [{"field": "frames"}], "hop_s": 0}', "hop_s"),
        ('{"type": "start", "inputs": [{"field": "frames"}], "hop": 1}', "hop"),
    ],
)
def test_a_start_that_is_invalid_says_why(text: str, reason: str) -> None:
    with pytest.raises(StreamError, match=reason):
        parse_start(text)
