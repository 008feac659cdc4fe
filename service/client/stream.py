"""A live stream for threads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Lock
from typing import Literal

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

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


class Stream:
    """An open live stream. Iterate over it for its messages, while another thread sends:

        with client.stream([PictureInput()]) as stream:
            threading.Thread(target=send_pictures, args=(stream,)).start()
            for message in stream: …

    `ready`: what holds for it. `summary`: what the service sends after `close()`, or None. Its
    methods raise StreamClosedError where the connection has ended. Any thread may send; one may
    read.
    """

    def __init__(self, socket: ClientConnection, request: StreamRequest, ready: Ready) -> None:
        self.ready = ready
        self.summary: Summary | None = None
        self._socket = socket
        self._media = MediaMessages(request.inputs)
        self._lock = Lock()  # numbers messages in the order in which they are sent

    def send_picture(self, data: bytes, time_ns: int | None = None) -> None:
        """Send a picture file, or of `VideoInput` an access unit, captured at `time_ns`: ns of any
        clock that the inputs share, by default time.monotonic_ns(), now. Waits while the
        connection takes no more."""
        with self._lock:
            self._send(self._media.picture(data, time_ns))

    def send_sound(self, data: bytes, time_ns: int | None = None) -> None:
        """Send samples of 16 bits, the first of them captured at `time_ns`, by default as long ago
        as they last; of `OpusInput` a packet, as for pictures."""
        with self._lock:
            self._send(self._media.sound(data, time_ns))

    def send_series(self, field: str, data: bytes, time_ns: int | None = None) -> None:
        """Send float32 values of `SeriesInput(field=field)`, as sound."""
        with self._lock:
            self._send(self._media.series(field, data, time_ns))

    def begin_segment(self) -> None:
        """Begin a new segment with the next message of each input."""
        with self._lock:
            self._media.begin_segment()

    def finalize(self) -> None:
        """Ask for an answer now."""
        self._send_control("finalize")

    def keepalive(self) -> None:
        """Say that nothing is sent for now."""
        self._send_control("keepalive")

    def close(self) -> None:
        """End the stream. Read on to get the last answer; then `summary` is set."""
        self._send_control("close")

    def abort(self) -> None:
        """Drop the connection."""
        self._socket.close()

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """Return the next answer or problem, and acknowledge it; None: the stream has ended.

        Raises StreamClosedError, and TimeoutError after `timeout_s`.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            remaining = None if end is None else max(0.0, end - time.monotonic())
            try:
                message = parse_text(self._socket.recv(timeout=remaining))
            except ConnectionClosed as exc:
                if (error := end_of(exc)) is None:
                    return None
                raise error from exc
            if isinstance(message, Summary):
                self.summary = message
            elif isinstance(message, Answer):
                self._acknowledge(message)
                return message
            elif message is not None and not isinstance(message, Ready):
                return message

    def __iter__(self) -> Iterator[Message]:
        while (message := self.receive()) is not None:
            yield message

    def _acknowledge(self, answer: Answer) -> None:
        with suppress(ConnectionClosed):  # the next read says why
            self._socket.send(acknowledgement(answer))

    def _send_control(self, kind: Literal["finalize", "keepalive", "close"]) -> None:
        self._send(control(kind))

    def _send(self, message: str | bytes) -> None:
        try:
            self._socket.send(message)
        except ConnectionClosed as exc:
            raise end_of(exc) or StreamClosedError(1000, "The stream has ended.") from exc


@contextmanager
def open_stream(request: StreamRequest) -> Iterator[Stream]:
    """Open a live stream, and drop the connection at the end."""
    with ExitStack() as stack:
        socket = _connect(request, stack)
        yield Stream(socket, request, _start(socket, request))


def _connect(request: StreamRequest, stack: ExitStack) -> ClientConnection:
    """Connect, with retries; `stack` closes it. Raises ProblemError and UnreachableError."""
    attempts = request.retries.begin()
    while True:
        try:
            socket: ClientConnection = stack.enter_context(
                connect(request.address, **request.options())
            )
            return socket
        except (OSError, InvalidHandshake) as exc:
            time.sleep(attempts.wait_s(refusal(request, exc)))


def _start(socket: ClientConnection, request: StreamRequest) -> Ready:
    try:
        socket.send(request.start())
        message = parse_text(socket.recv(timeout=request.timeout_s))
    except (ConnectionClosed, TimeoutError) as exc:
        raise end_of(exc) or StreamClosedError(1000, "The service did not begin.") from exc
    return check_ready(message)
