"""The WebSocket of live streams: its handshake, its tasks and its end."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel
from starlette.websockets import WebSocketDisconnect, WebSocketState

from model.checkpoint import Card
from model.preprocess.specs import SeriesSpec, SpectrogramSpec
from service.classification import upload_fields
from service.classification.options import Options
from service.classification.pipeline import Call
from service.classification.schemas import Classification
from service.classification.served_classifier import ServedClassifier, media_limits
from service.classification.upload_fields import InputFiles
from service.decoding.live_decoder import LiveDecoder
from service.decoding.live_wire import CodedInput as DecodedInput
from service.decoding.live_wire import LiveRequest
from service.decoding.wire import PeerLost
from service.errors import Error, Problem
from service.http.state import State, record_of, state_of
from service.request_record import RequestRecord
from service.runtime.token_bucket import TokenBucket
from service.settings import Settings
from service.streaming.messages import (
    DECODER_LOST,
    IDLE,
    INVALID,
    PROTOCOL,
    TOO_FAST,
    TOO_LONG,
    UNKNOWN_MODEL,
    CodedInput,
    Input,
    Ready,
    SeriesInput,
    Start,
    StreamError,
    parse_control,
    parse_start,
)
from service.streaming.session import Pace, Session

router = APIRouter(prefix="/v1")

#: Seconds until the first message.
_START_TIMEOUT_S = 10.0
#: Default window in seconds, where the checkpoint needs no longer one, and hops in a window.
_WINDOW_S, _HOPS = 2.0, 4
#: Pictures of a video that are kept for each that a window takes.
_PICTURES_A_PART = 8
#: Longest reason of a close frame, in bytes.
_MAX_REASON = 123
#: Ends of a connection that are not its client's close frame, by their code, for the log.
_ENDS = {
    1002: "a frame was invalid",
    1006: "the connection was lost",
    1007: "a text was not in UTF-8",
    1009: "a message was too large",
    1012: "the service is shutting down",
}
#: Close codes of RFC 6455: the session ended, an error, the service restarts, try again later.
_NORMAL, _INTERNAL, _RESTART, _LATER = 1000, 1011, 1012, 1013
#: Close codes of problems; of others _LATER. An unknown checkpoint is unknown later as well.
_CODES = {Error.STOPPING: _RESTART, Error.UNKNOWN_MODEL: UNKNOWN_MODEL}


@router.websocket("/stream")
async def stream(websocket: WebSocket) -> None:
    """Answer a sliding window over pictures and sound that arrive live."""
    state, record = state_of(websocket), record_of(websocket)
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
    try:
        async with state.streams.session(record.notes.get("key", "")):
            await _serve(websocket, state, record)
        await _close(websocket, _NORMAL, "")
    except StreamError as exc:
        record.notes["closed"] = exc.reason
        await _close(websocket, exc.code, exc.reason)
    except Problem as problem:
        record.notes["closed"] = problem.detail
        await _close(websocket, _CODES.get(problem.error, _LATER), problem.detail)
    except WebSocketDisconnect as exc:
        record.notes["closed"] = _ENDS.get(exc.code, "by the client")


async def _serve(websocket: WebSocket, state: State, record: RequestRecord) -> None:
    """Serve one session. Raises StreamError, Problem and WebSocketDisconnect."""
    settings = state.settings
    start = await _receive_start(websocket)
    name = start.model or settings.default_model
    card = state.registry.get(name).card
    record.model = name
    _check_inputs(start, name, card)
    pace = _pace(start, card)
    async with _live_decoder(start, pace, state) as decoder:
        session = Session(
            start,
            pace,
            _Classify(state.classifier),
            _Send(websocket),
            settings.stream_buffer_mib << 20,
            state.streams.turns,
            decoder,
        )
        await websocket.send_text(
            Ready(
                id=websocket.state.id, model=name, window_s=pace.window_s, hop_s=pace.hop_s,
                steps=start.steps,
            ).model_dump_json(exclude_none=True)
        )  # fmt: skip
        try:
            await _run(websocket, session, decoder, settings)
        finally:
            state.streams.windows.update(session.counts.windows)
            for counts in session.counts.packets.values():
                state.streams.packets.update(counts)
            record.notes |= session.summary().model_dump(exclude={"type"}, exclude_none=True)


@asynccontextmanager
async def _live_decoder(
    start: Start, pace: Pace, state: State
) -> AsyncIterator[LiveDecoder | None]:
    """Hold a decoding process for the session's coded inputs; None: it has none.

    Raises StreamError where too many are held, and where the process is lost; Problem NOT_READY
    where none starts within `request_deadline_s`.
    """
    inputs = {
        number: DecodedInput.model_validate(source.model_dump(exclude={"field"}))
        for number, source in enumerate(start.inputs)
        if isinstance(source, CodedInput)
    }
    if not inputs:
        yield None
        return
    spacing_ns = round(1e9 * pace.window_s / (_PICTURES_A_PART * pace.pictures))
    request = LiveRequest(inputs=inputs, spacing_ns=spacing_ns, limits=media_limits(state.settings))
    async with state.streams.decoder():
        try:
            settings = state.settings
            decoder = await state.decoders.open_live(
                request, settings.stream_decoder_memory_mib << 20, settings.request_deadline_s
            )
            try:
                yield decoder
            finally:
                await decoder.close()
        except PeerLost as exc:
            state.streams.decoders_lost += 1
            reason = f"the decoder of this stream was ended: {exc}; open another one"
            raise StreamError(DECODER_LOST, reason) from exc


async def _run(
    websocket: WebSocket, session: Session, decoder: LiveDecoder | None, settings: Settings
) -> None:
    """Receive, decode and answer until one of them ends.

    Raises StreamError, Problem, PeerLost and WebSocketDisconnect.
    """
    bucket = TokenBucket(2 * settings.stream_messages_per_s, settings.stream_messages_per_s)
    receiving = _receive(websocket, session, bucket, settings.stream_idle_timeout_s)
    tasks = [asyncio.create_task(receiving), asyncio.create_task(session.run())]
    if decoder is not None:
        tasks.append(asyncio.create_task(decoder.run(session.receive_decoded)))
    try:
        done, _ = await asyncio.wait(
            tasks, timeout=settings.stream_max_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            raise StreamError(TOO_LONG, f"the stream is {settings.stream_max_s:g} s long")
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _receive_start(websocket: WebSocket) -> Start:
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            message = await websocket.receive()
    except TimeoutError:
        raise StreamError(IDLE, f"no `start` within {_START_TIMEOUT_S:g} s") from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message["code"])
    if not message.get("text"):
        raise StreamError(INVALID, "the first message must be a text: `start`")
    return parse_start(message["text"])


async def _receive(
    websocket: WebSocket, session: Session, bucket: TokenBucket, idle_timeout_s: float
) -> None:
    """Receive all the time, so that nothing old waits in the sockets' buffers.

    Raises StreamError and WebSocketDisconnect.
    """
    now = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(idle_timeout_s) as idle:
            while True:
                message = await websocket.receive()
                idle.reschedule(now() + idle_timeout_s)
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message["code"])
                bucket.spend()
                if bucket.wait_s():
                    raise StreamError(TOO_FAST, "too many messages (SCMRL_STREAM_MESSAGES_PER_S)")
                if message.get("bytes") is not None:
                    session.receive_media(message["bytes"])
                else:
                    session.receive_control(parse_control(message["text"]))
    except TimeoutError:
        raise StreamError(IDLE, f"no message for {idle_timeout_s:g} s") from None


def _check_inputs(start: Start, name: str, card: Card) -> None:
    """Raise StreamError for an input that the checkpoint has no stream for."""
    kinds = card.kinds
    rows = {row.name: row for row in upload_fields.checkpoint_fields(kinds)}
    for source in start.inputs:
        row = rows.get(source.field)
        fed = {kinds[stream] for stream in kinds if row is not None and row.feeds(stream, kinds)}
        if not fed & _kinds(source):
            raise StreamError(
                INVALID,
                f"the checkpoint {name} has no stream for `{source.field}` as {source.format}; its "
                f"streams: {upload_fields.describe_streams(kinds)}",
            )


def _kinds(source: Input) -> set[str]:
    """Return the kinds of streams that an input feeds."""
    if isinstance(source, SeriesInput):
        return {"series"}
    row = next(row for row in upload_fields.FIELDS if row.name == source.field)
    return set(row.kinds)


def _pace(start: Start, card: Card) -> Pace:
    """Return window and hop, by default those of the checkpoint, and the pictures of a window."""
    specs = card.streams.values()
    needed_s = [spec.window_s for spec in specs if isinstance(spec, SpectrogramSpec)]
    needed_s += [spec.duration_s for spec in specs if isinstance(spec, SeriesSpec)]
    window_s = start.window_s or max([_WINDOW_S, *filter(None, needed_s)])
    hop_s = start.hop_s or window_s / _HOPS
    return Pace(window_s, hop_s, pictures=start.steps or card.steps)


@dataclass(frozen=True)
class _Classify:
    """Classifies a window as a request of its own."""

    classifier: ServedClassifier

    async def __call__(self, files: InputFiles, options: Options) -> Classification:
        return await self.classifier.classify(files, options, Call(uuid.uuid4().hex))


@dataclass(frozen=True)
class _Send:
    """Sends a message. A client that does not read is disconnected by the server."""

    websocket: WebSocket

    async def __call__(self, message: BaseModel) -> None:
        await self.websocket.send_text(message.model_dump_json(exclude_none=True))


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    if websocket.application_state is WebSocketState.CONNECTED:
        with contextlib.suppress(RuntimeError):  # the client has closed it meanwhile
            await websocket.close(code, reason.encode()[:_MAX_REASON].decode(errors="ignore"))
