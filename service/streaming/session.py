"""One live session: buffers what is received, and answers over a sliding window, the latest first.

The caller receives messages all the time and passes them to `receive_*`, which never wait. `run`
answers meanwhile: one request at a time, about the newest window. Hops that fall due while a
request is in flight, or while answers are unacknowledged, are skipped, so nothing piles up.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel

from model.media.live.types import Decoded, Packet
from service.classification.options import Options
from service.classification.schemas import Classification
from service.classification.upload_fields import InputFiles
from service.errors import Error, Problem
from service.streaming.buffers import Picture
from service.streaming.inputs import (
    add_media,
    buffer_of,
    clock_of,
    files_of,
    select_pictures,
)
from service.streaming.messages import (
    Acknowledge,
    Answer,
    Close,
    CodedInput,
    Failed,
    Finalize,
    Keepalive,
    Media,
    Start,
    Summary,
    Window,
    parse_media,
)
from service.streaming.packet_outcomes import PacketOutcomes
from service.streaming.turns import Turns

_NS = 1_000_000_000
#: Errors after which the client has to open a session elsewhere.
_FATAL = frozenset({Error.STOPPING, Error.UNKNOWN_MODEL, Error.MODEL_FAILED, Error.NOT_READY})

Classify = Callable[[InputFiles, Options], Awaitable[Classification]]
Send = Callable[[BaseModel], Awaitable[None]]


class Decoder(Protocol):
    """Decodes the packets of H.264 and Opus of one session."""

    def feed(self, packet: Packet) -> bool:
        """Take a packet, without waiting; False: it is dropped, as the decoder is behind."""
        ...

    async def drained(self) -> None:
        """Wait until all packets are decoded, and `receive_decoded` was called for each."""
        ...


@dataclass(frozen=True)
class Pace:
    """Window and hop in seconds, and the pictures of a window."""

    window_s: float
    hop_s: float
    pictures: int


@dataclass
class Counts:
    """Counts of a session; `messages` by field, and `packets` of coded inputs by field and outcome
    (`slots.PACKET_OUTCOMES`)."""

    answers: int = 0
    skipped: int = 0
    failed: int = 0
    segments: int = 1
    messages: dict[str, int] = field(default_factory=dict)
    packets: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def windows(self) -> dict[str, int]:
        """Windows by outcome, as `SessionSlots.windows` counts them."""
        return {"answered": self.answers, "skipped": self.skipped, "failed": self.failed}


@dataclass(frozen=True)
class _Cut:
    """A window that is classified, and the hops before it that got no answer."""

    window: Window
    segment: int
    skipped: int
    pictures: Mapping[str, list[Picture]]
    files: InputFiles


class Session:
    """One session. `classify` raises Problem; `send` sends a message and may wait. `max_bytes`: of
    each input's buffer. `turns`: held while a window is classified; sessions share them.
    `decoder`: of its coded inputs, where it has some."""

    def __init__(
        self,
        start: Start,
        pace: Pace,
        classify: Classify,
        send: Send,
        max_bytes: int,
        turns: Turns,
        decoder: Decoder | None = None,
    ) -> None:
        coded = [source.field for source in start.inputs if isinstance(source, CodedInput)]
        self._packets = PacketOutcomes(coded)
        messages = {source.field: 0 for source in start.inputs}
        self.counts = Counts(messages=messages, packets=self._packets.counts)
        self._start = start
        self._pace = pace
        self._classify = classify
        self._send = send
        self._turns = turns
        # A window reaches back from the newest message of any input: others may lag by a window.
        seconds = 2 * pace.window_s
        self._buffers = [buffer_of(source, seconds, max_bytes) for source in start.inputs]
        self._decoder = decoder
        self._clocks = [clock_of(source, seconds) for source in start.inputs]
        self._fed_segments = [-1] * len(self._buffers)  # of the last packet that was taken
        self._began = time.monotonic()
        self._wake = asyncio.Event()
        self._is_finalizing = self._is_closing = False
        self._acknowledged = 0
        self._answered_ns = -1  # end of the last window
        self._delay_ns: int | None = None  # shortest from capture to receipt
        self._smoothed: dict[str, float] = {}
        self._dropped_before = [0] * len(self._buffers)
        self._failing: str | None = None

    # --- receiving ------------------------------------------------------------------------------

    def receive_media(self, data: bytes) -> None:
        """Buffer a binary message. Raises StreamError."""
        media = parse_media(data, self._start)
        source = self._start.inputs[media.input]
        self.counts.messages[source.field] += 1
        clock = self._clocks[media.input]
        # Each input's next message may have the flag; the first one begins the segment.
        is_flagged = media.is_new_segment and clock.newest_ns >= 0
        if is_flagged or clock.begins_segment(media.time_ns):
            self._begin_segment()
        clock.add(media.time_ns)
        if isinstance(source, CodedInput):
            self._feed(source.field, media)
        else:
            add_media(self._buffers[media.input], media)
        delay = time.monotonic_ns() - media.time_ns
        self._delay_ns = delay if self._delay_ns is None else min(self._delay_ns, delay)
        if self._is_due():  # to wake for each message costs as much as to receive it
            self._wake.set()

    def _feed(self, name: str, media: Media) -> None:
        assert self._decoder is not None
        number, segment = media.input, self._segment
        restarts = self._fed_segments[number] != segment  # none of the segment was taken so far
        packet = Packet(number, media.sequence, media.time_ns, restarts, media.payload, segment)
        if self._decoder.feed(packet):
            self._fed_segments[number] = segment
        else:
            self._packets.add(name, "behind")

    def receive_decoded(self, packet: Packet, decoded: Decoded[bytes]) -> None:
        """Buffer what was decoded of a packet, and count its outcome."""
        name = self._start.inputs[packet.input].field
        self._packets.add_decoded(name, decoded, packet.is_end)
        if packet.segment == self._segment:
            for time_ns, data in decoded.pieces:
                self._buffers[packet.input].add(time_ns, data)
        self._wake.set()

    def receive_control(self, message: Keepalive | Finalize | Close | Acknowledge) -> None:
        """Act on a text message."""
        if isinstance(message, Acknowledge):
            self._acknowledged = max(self._acknowledged, message.answer + 1)
        elif isinstance(message, Finalize):
            self._is_finalizing = True
        elif isinstance(message, Close):
            self._is_closing = True
        self._wake.set()

    @property
    def _segment(self) -> int:
        return self.counts.segments - 1

    def _begin_segment(self) -> None:
        for buffer in self._buffers:
            buffer.clear()
        for clock in self._clocks:
            clock.clear()
        self.counts.segments += 1
        self._answered_ns, self._delay_ns = -1, None
        self._smoothed = {}

    # --- answering ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Answer until the client closes the session; then send the summary.

        Raises Problem where no later window can be answered either, and what `send` raises.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._packets.problems:
                await self._send(self._packets.problems.popleft())
            if self._is_closing:
                if self._decoder is not None:
                    await self._end_inputs(self._decoder)
                await self._answer_if_new()
                await self._send(self.summary())
                return
            if self._is_finalizing:
                self._is_finalizing = False
                await self._answer_if_new()
            elif self._is_due() and not self._is_held_back():
                await self._answer(final=False)

    def summary(self) -> Summary:
        """Return the counts of the session so far."""
        counts = self.counts
        return Summary(
            seconds=round(time.monotonic() - self._began, 3),
            answers=counts.answers,
            skipped=counts.skipped,
            messages=counts.messages,
            dropped=self._dropped(),
            packets={name: dict(outcomes) for name, outcomes in counts.packets.items()} or None,
            segments=counts.segments,
        )

    @property
    def _newest_ns(self) -> int:
        return max(buffer.newest_ns for buffer in self._buffers)

    def _is_due(self) -> bool:
        """Return whether a hop has passed since the last answer, or since the first message."""
        newest = self._newest_ns
        if newest < 0:
            return False
        if self._answered_ns < 0:
            oldest = [b.oldest_ns for b in self._buffers if b.newest_ns >= 0]
            return newest - min(oldest) >= self._pace.hop_s * _NS
        return newest - self._answered_ns >= self._pace.hop_s * _NS

    def _is_held_back(self) -> bool:
        most = self._start.max_unacknowledged
        return most is not None and self.counts.answers - self._acknowledged >= most

    async def _end_inputs(self, decoder: Decoder) -> None:
        """Get the pictures that the decoder of H.264 holds back. It then needs a key frame."""
        await decoder.drained()
        for number, source in enumerate(self._start.inputs):
            if isinstance(source, CodedInput):
                decoder.feed(Packet(number, 0, 0, False, b"", self._fed_segments[number]))

    async def _answer_if_new(self) -> None:
        if self._decoder is not None:
            await self._decoder.drained()
        if self._newest_ns > self._answered_ns:
            await self._answer(final=True)

    async def _answer(self, final: bool) -> None:
        """Classify the newest window when it is this session's turn, and send the answer, or the
        problem once."""
        async with self._turns.take():
            cut = self._cut()
            if cut is None:
                return
            outcome = await self._try_to_classify(cut.files)
        # Not while it has the turn: a client that does not read would hold it.
        if isinstance(outcome, Problem):
            await self._report(outcome, cut.pictures)
        else:
            await self._send(self._make_answer(cut, outcome, final))

    async def _try_to_classify(self, files: InputFiles) -> Classification | Problem:
        try:
            return await self._classify(files, self._options())
        except Problem as problem:
            return problem

    def _cut(self) -> _Cut | None:
        """Return the newest window; None where a new segment has begun, of which there is none."""
        end_ns = self._newest_ns
        if end_ns <= self._answered_ns:
            return None
        begin_ns = end_ns - round(self._pace.window_s * _NS)
        sources = self._start.inputs
        pictures = select_pictures(sources, self._buffers, begin_ns, end_ns, self._pace.pictures)
        fields = [source.field for source in sources]
        newest = dict(zip(fields, (buffer.newest_ns for buffer in self._buffers), strict=True))
        cut = _Cut(
            window=Window(begin_ns=begin_ns, end_ns=end_ns, newest_ns=newest),
            segment=self._segment,
            skipped=self._count_skipped(end_ns),
            pictures=pictures,
            files=files_of(sources, self._buffers, begin_ns, end_ns, pictures),
        )
        self._answered_ns = end_ns
        return cut

    def _make_answer(self, cut: _Cut, result: Classification, final: bool) -> Answer:
        """Return the answer to a window, and count it."""
        self._failing = None
        self.counts.skipped += cut.skipped
        if cut.segment == self._segment:  # no new segment has begun meanwhile
            self._smooth(result)
        delay_ns = self._delay_ns if self._delay_ns is not None else 0
        dropped = self._dropped()
        answer = Answer(
            number=self.counts.answers,
            final=final,
            segment=cut.segment,
            window=cut.window,
            dropped={name: count - before for (name, count), before in
                     zip(dropped.items(), self._dropped_before, strict=True)},
            skipped=cut.skipped,
            packets=self._packets.since_last() or None,
            smoothed=dict(self._smoothed),
            behind_ms=round((time.monotonic_ns() - cut.window.end_ns - delay_ns) / 1e6, 3),
            result=result.model_copy(
                update={"probabilities": result.probabilities[: self._start.top_k]}
            ),
        )  # fmt: skip
        self._dropped_before = list(dropped.values())
        self.counts.answers += 1
        return answer

    def _count_skipped(self, end_ns: int) -> int:
        """Return the hops between the last window and this one that got no answer."""
        if self._answered_ns < 0:
            return 0
        return max(0, int((end_ns - self._answered_ns) / (self._pace.hop_s * _NS)) - 1)

    def _options(self) -> Options:
        start = self._start
        # All probabilities, so that those that are smoothed are whole.
        return Options(
            model=start.model,
            steps=start.steps,
            attention=start.attention,
            class_activation=start.class_activation,
        )

    def _smooth(self, result: Classification) -> None:
        """Average the probabilities over the answers of the segment, the newest weighing most."""
        weight = self._start.smoothing if self._smoothed else 0.0
        for ranked in result.probabilities:
            before = self._smoothed.get(ranked.label, 0.0)
            self._smoothed[ranked.label] = round(
                weight * before + (1 - weight) * ranked.probability, 6
            )

    def _dropped(self) -> dict[str, int]:
        fields = [source.field for source in self._start.inputs]
        return dict(zip(fields, (buffer.dropped for buffer in self._buffers), strict=True))

    async def _report(self, problem: Problem, pictures: Mapping[str, list[Picture]]) -> None:
        """Send the problem of a window with these pictures, unless it is that of the window before.
        Raises one that will last."""
        self.counts.failed += 1
        if problem.error in _FATAL:
            raise problem
        if self._failing == problem.detail:
            return
        self._failing = problem.detail
        await self._send(
            Failed(
                error=problem.error.kind,
                status=problem.error.status,
                detail=problem.detail + _message_of(problem, pictures),
                retry_after_s=problem.retry_after_s,
            )
        )


def _message_of(problem: Problem, pictures: Mapping[str, list[Picture]]) -> str:
    """Return a sentence that says which message a problem is about, where that is known."""
    files = pictures.get(problem.field or "", [])
    if problem.file is None or problem.file >= len(files):
        return ""
    picture = files[problem.file]
    return (
        f" It is that of the message with sequence number {picture.sequence}, captured at "
        f"{picture.time_ns} ns."
    )
