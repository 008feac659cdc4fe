"""A live stream for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from .answers import Answer, Ready, Summary
from .errors import StreamClosedError
from .stream_messages import (
    MediaMessages,
    Message,
    StreamRequest,
    acknowledgement,
    check_ready,
    control,
    end_of,
    parse_text,
    refusal,
)


class AsyncStream:
    """An open live stream: `Stream` with coroutines. Iterate over it for its messages, while
    another task sends."""

    def __init__(self, socket: ClientConnection, request: StreamRequest, ready: Ready) -> None:
        self.ready = ready
        self.summary: Summary | None = None
        self._socket = socket
        self._media = MediaMessages(request.inputs)

    async def send_picture(self, data: bytes, time_ns: int | None = None) -> None:
        """Send a picture file, or of `VideoInput` an access unit, captured at `time_ns`: ns of any
        clock that the inputs share, by default time.monotonic_ns(), now. Waits while the
        connection takes no more."""
        await self._send(self._media.picture(data, time_ns))

    async def send_sound(self, data: bytes, time_ns: int | None = None) -> None:
        """Send samples of 16 bits, the first of them captured at `time_ns`, by default as long ago
        as they last; of `OpusInput` a packet, as for pictures."""
        await self._send(self._media.sound(data, time_ns))

    async def send_series(self, field: str, data: bytes, time_ns: int | None = None) -> None:
        """Send float32 values of `SeriesInput(field=field)`, as sound."""
        await self._send(self._media.series(field, data, time_ns))

    def begin_segment(self) -> None:
        """Begin a new segment with the next message of each input."""
        self._media.begin_segment()

    async def finalize(self) -> None:
        """Ask for an answer now."""
        await self._send(control("finalize"))

    async def keepalive(self) -> None:
        """Say that nothing is sent for now."""
        await self._send(control("keepalive"))

    async def close(self) -> None:
        """End the stream. Read on to get the last answer; then `summary` is set."""
        await self._send(control("close"))

    async def abort(self) -> None:
        """Drop the connection."""
        await self._socket.close()

    async def receive(self) -> Message | None:
        """Return the next answer or problem, and acknowledge it; None: the stream has ended.

        Raises StreamClosedError.
        """
        while True:
            try:
                message = parse_text(await self._socket.recv())
            except ConnectionClosed as exc:
                if (error := end_of(exc)) is None:
                    return None
                raise error from exc
            if isinstance(message, Summary):
                self.summary = message
            elif isinstance(message, Answer):
                with suppress(ConnectionClosed):  # the next read says why
                    await self._socket.send(acknowledgement(message))
                return message
            elif message is not None and not isinstance(message, Ready):
                return message

    async def __aiter__(self) -> AsyncIterator[Message]:
        while (message := await self.receive()) is not None:
            yield message

    async def _send(self, message: str | bytes) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as exc:
            raise end_of(exc) or StreamClosedError(1000, "The stream has ended.") from exc


@asynccontextmanager
async def open_stream(request: StreamRequest) -> AsyncIterator[AsyncStream]:
    """Open a live stream, and drop the connection at the end."""
    socket = await _connect(request)
    try:
        yield AsyncStream(socket, request, await _start(socket, request))
    finally:
        await socket.close()


async def _connect(request: StreamRequest) -> ClientConnection:
    """Connect, with retries. Raises ProblemError and UnreachableError."""
    attempts = request.retries.begin()
    while True:
        try:
            return await connect(request.address, **request.options())
        except (OSError, InvalidHandshake) as exc:
            await asyncio.sleep(attempts.wait_s(refusal(request, exc)))


async def _start(socket: ClientConnection, request: StreamRequest) -> Ready:
    try:
        await socket.send(request.start())
        async with asyncio.timeout(request.timeout_s):
            message = parse_text(await socket.recv())
    except (ConnectionClosed, TimeoutError) as exc:
        raise end_of(exc) or StreamClosedError(1000, "The service did not begin.") from exc
    return check_ready(message)
