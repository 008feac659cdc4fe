"""What the service and a decoding process say to each other over a socket.

A message is the length of its head, the head as JSON, and the bytes that the head tells of:
files one way, arrays the other, straight into their memory. An empty head is a heartbeat. The
process answers a heartbeat, and a job that it has received whole, with one byte at once. Nothing
is pickled, and what comes back from a process that strangers' files were read in is validated
like a stranger's.
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from model.preprocess.prepared import Prepared
from service.classification.inputs import InputFiles
from service.decoding.job import DecodeRequest, DecodeResult, StreamInfo
from service.errors import Error, Problem

_LENGTH = struct.Struct("!I")
#: An order to the fork server: `START` with a socket and a pipe for stderr, memory in bytes and CPU
#: seconds for each job, `KILL` with a process id, or `HEARTBEAT`, which asks for an answer alone.
COMMAND = struct.Struct("!cQd")
START, KILL, HEARTBEAT = b"s", b"k", b"b"
#: The fork server's answer: to START the process id, to HEARTBEAT the `sandbox.Layers` of its
#: processes.
REPLY = struct.Struct("!I")
#: A decoding process's sign of life.
_SIGN = b"\x06"
#: Seconds between two looks at a process that is waited for.
_LOOK_S = 0.5
#: Largest head of a message, in bytes.
_MAX_HEAD = 4 * 1024 * 1024
#: Most bytes of arrays that one answer may have.
_MAX_ARRAYS = 1024 * 1024 * 1024


class PeerLost(Exception):
    """The other side has gone, or says what it may not."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Job(_Message):
    """`sizes` of the files that follow, in bytes, each with the field it came in."""

    wanted: DecodeRequest
    sizes: list[tuple[str, int]]


#: A time that can be: what a process says that strangers' files may have taken over.
_Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class _Array(_Message):
    dtype: Literal["float32", "float64", "uint8"]
    shape: list[Annotated[int, Field(ge=0, le=1 << 30)]] = Field(max_length=5)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class _Stream(_Message):
    rows: str
    columns: str
    tensor: _Array
    row_edges: _Array
    column_edges: _Array
    canvas: _Array


class _Answer(_Message):
    kind: Literal["answer"] = "answer"
    prepared: dict[str, _Stream]
    streams: dict[str, StreamInfo]
    decode_s: _Seconds
    preprocess_s: _Seconds


class _Refusal(_Message):
    """A Problem: what is wrong with the files."""

    kind: Literal["refusal"] = "refusal"
    error: Literal["UNKNOWN_FORMAT", "UNUSABLE", "TOO_LARGE", "INVALID_FIELD"]
    detail: str
    field: str | None


class _Failure(_Message):
    """A fault of ours: its traceback."""

    kind: Literal["failure"] = "failure"
    traceback: str


_REPLY: TypeAdapter[_Answer | _Refusal | _Failure] = TypeAdapter(
    Annotated[_Answer | _Refusal | _Failure, Field(discriminator="kind")]
)
_PARTS = ("tensor", "row_edges", "column_edges", "canvas")


class Deadline:
    """A moment by which a conversation has to be over; None: it has no end.

    `look` is called now and then while the other side is waited for; what it raises ends the
    conversation.
    """

    def __init__(self, seconds: float | None, look: Callable[[], None] = lambda: None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._look = look

    def wait(self, call: Callable[[], int], sock: socket.socket) -> int:
        """The result of a call of `sock` that waits for the other side.

        Raises PeerLost where the call fails, TimeoutError, and what `look` raises.
        """
        while True:
            self._apply(sock)
            try:
                return call()
            except TimeoutError:
                self._look()
            except OSError as exc:
                raise PeerLost(str(exc)) from exc

    def _apply(self, sock: socket.socket) -> None:
        """Let the socket's next call last until the next look. Raises TimeoutError."""
        if self._end is None:
            return  # as sockets begin; a confined process may not even ask for it
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(min(left, _LOOK_S))


def send_request(
    sock: socket.socket, files: InputFiles, wanted: DecodeRequest, deadline: Deadline
) -> None:
    """Ask for `files` to be decoded. Raises PeerLost and TimeoutError."""
    named = [(name, data) for name in ("clip", "video", "audio") if (data := getattr(files, name))]
    named += [("frames", data) for data in files.frames]
    head = _Job(wanted=wanted, sizes=[(name, len(data)) for name, data in named])
    _send(sock, head.model_dump_json().encode(), (data for _, data in named), deadline)


def send_heartbeat(sock: socket.socket, deadline: Deadline) -> None:
    """Send a heartbeat. Raises PeerLost and TimeoutError."""
    _send(sock, b"", (), deadline)


def receive_acknowledgement(sock: socket.socket, deadline: Deadline) -> None:
    """Wait for the answer to a heartbeat, or that a job has been received.

    Raises PeerLost and TimeoutError.
    """
    sign = bytearray(len(_SIGN))
    _receive_into(sock, memoryview(sign), deadline)
    if sign != _SIGN:
        raise PeerLost("it answers what is no sign of life")


def receive_request(sock: socket.socket) -> tuple[InputFiles, DecodeRequest]:
    """The next job, which is acknowledged; heartbeats before it are answered.

    Raises PeerLost when there will be no more.
    """
    never = Deadline(None)
    while not (head := _receive_head(sock, never)):
        _send_parts(sock, [_SIGN], never)
    job = _Job.model_validate_json(head)
    found: dict[str, list[bytes]] = {}
    for name, size in job.sizes:
        data = sock.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise PeerLost("it has gone")
        found.setdefault(name, []).append(data)
    _send_parts(sock, [_SIGN], never)
    frames = tuple(found.pop("frames", ()))
    return InputFiles(
        frames=frames, **{name: datas[0] for name, datas in found.items()}
    ), job.wanted


def send_result(sock: socket.socket, decoded: DecodeResult, canvas: bool) -> None:
    """Answer a job, with or without the pictures that maps are drawn on."""
    arrays: list[NDArray[Any]] = []
    described = {}
    for name, prepared in decoded.prepared.items():
        parts = {part: np.ascontiguousarray(getattr(prepared, part)) for part in _PARTS}
        if not canvas:
            parts["canvas"] = np.empty((0, 0, 3), np.uint8)
        arrays += parts.values()
        described[name] = {
            part: {"dtype": array.dtype.name, "shape": array.shape} for part, array in parts.items()
        } | {"rows": prepared.rows, "columns": prepared.columns}
    head = _Answer.model_validate(
        {
            "prepared": described,
            "streams": decoded.streams,
            "decode_s": decoded.decode_s,
            "preprocess_s": decoded.preprocess_s,
        }
    )
    buffers = (array.reshape(-1).view(np.uint8).data for array in arrays)
    _send(sock, head.model_dump_json().encode(), buffers, Deadline(None))


def send_problem(sock: socket.socket, problem: Problem) -> None:
    """Refuse a job."""
    head = _Refusal.model_validate(
        {"error": problem.error.name, "detail": problem.detail, "field": problem.field}
    )
    _send(sock, head.model_dump_json().encode(), (), Deadline(None))


def send_failure(sock: socket.socket, traceback: str) -> None:
    """Fail a job."""
    _send(sock, _Failure(traceback=traceback).model_dump_json().encode(), (), Deadline(None))


def receive_result(sock: socket.socket, deadline: Deadline) -> DecodeResult:
    """The answer to a job.

    Raises Problem as `files.decode` does, RuntimeError for a fault of ours, PeerLost and
    TimeoutError.
    """
    try:
        reply = _REPLY.validate_json(_receive_head(sock, deadline))
    except ValidationError as exc:
        raise PeerLost(f"it answers what is no answer: {exc}") from exc
    if isinstance(reply, _Refusal):
        raise Problem(Error[reply.error], reply.detail, field=reply.field)
    if isinstance(reply, _Failure):
        raise RuntimeError(f"in a decoding process:\n{reply.traceback}")
    total = sum(getattr(s, part).bytes for s in reply.prepared.values() for part in _PARTS)
    if total > _MAX_ARRAYS:
        raise PeerLost(f"its arrays have {total} bytes")
    prepared = {}
    for name, stream in reply.prepared.items():
        arrays = {part: _receive_array(sock, getattr(stream, part), deadline) for part in _PARTS}
        prepared[name] = Prepared(rows=stream.rows, columns=stream.columns, **arrays)
    return DecodeResult(prepared, reply.streams, reply.decode_s, reply.preprocess_s)


def _receive_array(sock: socket.socket, described: _Array, deadline: Deadline) -> NDArray[Any]:
    array = np.empty(described.shape, described.dtype)
    _receive_into(sock, array.reshape(-1).view(np.uint8).data, deadline)
    return array


def _send(
    sock: socket.socket,
    head: bytes,
    rest: Iterable[Any],
    deadline: Deadline,
) -> None:
    _send_parts(sock, (_LENGTH.pack(len(head)), head, *rest), deadline)


def _send_parts(sock: socket.socket, parts: Iterable[Any], deadline: Deadline) -> None:
    for part in parts:
        left = memoryview(part)
        while left:
            left = left[deadline.wait(partial(sock.send, left), sock) :]


def _receive_head(sock: socket.socket, deadline: Deadline) -> bytes:
    length = bytearray(_LENGTH.size)
    _receive_into(sock, memoryview(length), deadline)
    (size,) = _LENGTH.unpack(length)
    if size > _MAX_HEAD:
        raise PeerLost(f"a head of {size} bytes")
    head = bytearray(size)
    _receive_into(sock, memoryview(head), deadline)
    return bytes(head)


def _receive_into(sock: socket.socket, buffer: memoryview, deadline: Deadline) -> None:
    while buffer:
        count = deadline.wait(partial(sock.recv_into, buffer), sock)
        if not count:
            raise PeerLost("it has gone")
        buffer = buffer[count:]
