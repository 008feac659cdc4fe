"""The messages between the service and a decoding process, over a socket.

A message is the length of its head, the head as JSON, and the bytes that the head describes: files
to the process, arrays from it, received into their memory without a copy. An empty head is a
heartbeat. The process acknowledges a heartbeat, and a request that it has received completely, with
one byte. Nothing is pickled, and results are validated as untrusted input: the process that sends
them has read untrusted files.
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from model.preprocess.prepared import Prepared
from service.classification.upload_fields import InputFiles
from service.decoding.job import DecodeRequest, DecodeResult, StreamInfo
from service.errors import Error, Problem

_LENGTH = struct.Struct("!I")
#: A command to the fork server: `START` with a socket and a pipe for stderr, memory in bytes and
#: CPU seconds for each request, `START_LIVE` with the same for each packet of a live stream, `KILL`
#: with a process id, or `HEARTBEAT`.
COMMAND = struct.Struct("!cQd")
START, START_LIVE, KILL, HEARTBEAT = b"s", b"l", b"k", b"b"
#: The fork server's reply: to START and START_LIVE the process id, to HEARTBEAT the
#: `sandbox.Layers` of its processes.
REPLY = struct.Struct("!I")
#: A decoding process's acknowledgement.
_ACKNOWLEDGEMENT = b"\x06"
#: Seconds between two checks of the process at the other end.
_CHECK_S = 0.5
#: Largest head of a message, in bytes.
_MAX_HEAD = 4 * 1024 * 1024
#: Most bytes of arrays that one result may have.
_MAX_ARRAYS = 1024 * 1024 * 1024


#: Returns an array of a shape and a type, not initialized.
Allocate = Callable[[Sequence[int], str], NDArray[Any]]


class PeerLost(Exception):
    """The other side has closed the socket, or sent an invalid message."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Request(_Message):
    """`sizes` of the files that follow, in bytes, each with its upload field."""

    request: DecodeRequest
    sizes: list[tuple[str, int]]


#: A duration in seconds; bounded, since a compromised process may send anything.
_Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class _Array(_Message):
    dtype: Literal["float32", "float64", "uint8"]
    shape: list[Annotated[int, Field(ge=0, le=1 << 30)]] = Field(max_length=5)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class _PreparedStream(_Message):
    rows: str
    columns: str
    tensor: _Array
    row_edges: _Array
    column_edges: _Array
    canvas: _Array


class _Result(_Message):
    kind: Literal["result"] = "result"
    prepared: dict[str, _PreparedStream]
    streams: dict[str, StreamInfo]
    decode_s: _Seconds
    preprocess_s: _Seconds


class _Rejection(_Message):
    """A Problem with the files."""

    kind: Literal["rejection"] = "rejection"
    error: Literal["UNKNOWN_FORMAT", "UNUSABLE", "TOO_LARGE", "INVALID_FIELD"]
    detail: str
    field: str | None
    file: int | None = Field(ge=0)


class _Failure(_Message):
    """An unexpected exception: its traceback."""

    kind: Literal["failure"] = "failure"
    traceback: str


_REPLY: TypeAdapter[_Result | _Rejection | _Failure] = TypeAdapter(
    Annotated[_Result | _Rejection | _Failure, Field(discriminator="kind")]
)
_ARRAYS = ("tensor", "row_edges", "column_edges", "canvas")


class Deadline:
    """A time limit on an exchange of messages, in seconds from now; None: no limit.

    `check` is called every half second while the other side is waited for; what it raises ends
    the exchange.
    """

    def __init__(self, seconds: float | None, check: Callable[[], None] = lambda: None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._check = check

    def wait(self, call: Callable[[], int], sock: socket.socket) -> int:
        """Return the result of `call`, a call of `sock` that waits for the other side.

        Raises PeerLost where the call fails, TimeoutError, and what `check` raises.
        """
        while True:
            self._apply(sock)
            try:
                return call()
            except TimeoutError:
                self._check()
            except OSError as exc:
                raise PeerLost(str(exc)) from exc

    def _apply(self, sock: socket.socket) -> None:
        """Let the socket's next call last until the next check. Raises TimeoutError."""
        if self._end is None:
            return  # sockets block by default; a confined process may not change that
        remaining = self._end - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        sock.settimeout(min(remaining, _CHECK_S))


def send_request(
    sock: socket.socket, files: InputFiles, request: DecodeRequest, deadline: Deadline
) -> None:
    """Send a decode request and its files. Raises PeerLost and TimeoutError."""
    named = [(name, data) for name, datas in files.items() for data in datas]
    head = _Request(request=request, sizes=[(name, len(data)) for name, data in named])
    _send(sock, head.model_dump_json().encode(), (data for _, data in named), deadline)


def send_heartbeat(sock: socket.socket, deadline: Deadline) -> None:
    """Send a heartbeat. Raises PeerLost and TimeoutError."""
    _send(sock, b"", (), deadline)


def receive_acknowledgement(sock: socket.socket, deadline: Deadline) -> None:
    """Wait until a heartbeat or a request has been acknowledged.

    Raises PeerLost and TimeoutError.
    """
    received = bytearray(len(_ACKNOWLEDGEMENT))
    _receive_into(sock, memoryview(received), deadline)
    if received != _ACKNOWLEDGEMENT:
        raise PeerLost("it sent an invalid acknowledgement")


def receive_request(sock: socket.socket) -> tuple[InputFiles, DecodeRequest]:
    """Wait for the next request and acknowledge it, and heartbeats before it.

    Raises PeerLost when the service has closed the socket.
    """
    unlimited = Deadline(None)
    while not (head := _receive_head(sock, unlimited)):
        _send_parts(sock, [_ACKNOWLEDGEMENT], unlimited)
    message = _Request.model_validate_json(head)
    files: dict[str, list[bytes]] = {}
    for name, size in message.sizes:
        data = sock.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise PeerLost("it closed the socket")
        files.setdefault(name, []).append(data)
    _send_parts(sock, [_ACKNOWLEDGEMENT], unlimited)
    return InputFiles(**files), message.request


def send_result(sock: socket.socket, result: DecodeResult, canvas: bool) -> None:
    """Send the result of a request, with or without the pictures that maps are drawn on."""
    arrays: list[NDArray[Any]] = []
    heads = {}
    for name, prepared in result.prepared.items():
        parts: dict[str, NDArray[Any]] = {
            "tensor": prepared.tensor,
            "row_edges": prepared.row_edges,
            "column_edges": prepared.column_edges,
            "canvas": prepared.canvas() if canvas else np.empty((0, 0, 3), np.uint8),
        }
        parts = {part: np.ascontiguousarray(array) for part, array in parts.items()}
        arrays += parts.values()
        heads[name] = {
            part: {"dtype": array.dtype.name, "shape": array.shape} for part, array in parts.items()
        } | {"rows": prepared.rows, "columns": prepared.columns}
    head = _Result.model_validate(
        {
            "prepared": heads,
            "streams": result.streams,
            "decode_s": result.decode_s,
            "preprocess_s": result.preprocess_s,
        }
    )
    buffers = (array.reshape(-1).view(np.uint8).data for array in arrays)
    _send(sock, head.model_dump_json().encode(), buffers, Deadline(None))


def send_problem(sock: socket.socket, problem: Problem) -> None:
    """Reject a request."""
    head = _Rejection.model_validate(
        {
            "error": problem.error.name,
            "detail": problem.detail,
            "field": problem.field,
            "file": problem.file,
        }
    )
    _send(sock, head.model_dump_json().encode(), (), Deadline(None))


def send_failure(sock: socket.socket, traceback: str) -> None:
    """Report that a request made this process fail."""
    _send(sock, _Failure(traceback=traceback).model_dump_json().encode(), (), Deadline(None))


def receive_result(
    sock: socket.socket, deadline: Deadline, allocate: Allocate = np.empty
) -> DecodeResult:
    """Wait for the result of a request. `allocate` makes the arrays of its tensors.

    Raises Problem as `files.decode` does, RuntimeError where the process failed, PeerLost and
    TimeoutError.
    """
    try:
        reply = _REPLY.validate_json(_receive_head(sock, deadline))
    except ValidationError as exc:
        raise PeerLost(f"it sent an invalid reply: {exc}") from exc
    if isinstance(reply, _Rejection):
        raise Problem(Error[reply.error], reply.detail, field=reply.field, file=reply.file)
    if isinstance(reply, _Failure):
        raise RuntimeError(f"in a decoding process:\n{reply.traceback}")
    total = sum(getattr(s, part).bytes for s in reply.prepared.values() for part in _ARRAYS)
    if total > _MAX_ARRAYS:
        raise PeerLost(f"it sent {total} bytes of arrays; at most {_MAX_ARRAYS} are accepted")
    prepared = {}
    for name, stream in reply.prepared.items():
        arrays = {
            part: _receive_array(
                sock,
                getattr(stream, part),
                deadline,
                allocate if part == "tensor" else np.empty,
            )
            for part in _ARRAYS
        }
        canvas = arrays.pop("canvas")
        prepared[name] = Prepared(
            rows=stream.rows, columns=stream.columns, canvas=partial(np.asarray, canvas), **arrays
        )
    return DecodeResult(prepared, reply.streams, reply.decode_s, reply.preprocess_s)


def _receive_array(
    sock: socket.socket, head: _Array, deadline: Deadline, allocate: Allocate
) -> NDArray[Any]:
    array = allocate(head.shape, head.dtype)
    _receive_into(sock, array.reshape(-1).view(np.uint8).data, deadline)
    return array


def _send(
    sock: socket.socket,
    head: bytes,
    parts: Iterable[Any],
    deadline: Deadline,
) -> None:
    _send_parts(sock, (_LENGTH.pack(len(head)), head, *parts), deadline)


def _send_parts(sock: socket.socket, parts: Iterable[Any], deadline: Deadline) -> None:
    for part in parts:
        unsent = memoryview(part)
        while unsent:
            unsent = unsent[deadline.wait(partial(sock.send, unsent), sock) :]


def _receive_head(sock: socket.socket, deadline: Deadline) -> bytes:
    length = bytearray(_LENGTH.size)
    _receive_into(sock, memoryview(length), deadline)
    (size,) = _LENGTH.unpack(length)
    if size > _MAX_HEAD:
        raise PeerLost(f"it sent a head of {size} bytes; at most {_MAX_HEAD} are accepted")
    head = bytearray(size)
    _receive_into(sock, memoryview(head), deadline)
    return bytes(head)


def _receive_into(sock: socket.socket, buffer: memoryview, deadline: Deadline) -> None:
    while buffer:
        count = deadline.wait(partial(sock.recv_into, buffer), sock)
        if not count:
            raise PeerLost("it closed the socket")
        buffer = buffer[count:]
