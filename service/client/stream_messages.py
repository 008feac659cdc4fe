"""The messages of a live stream, without any connection."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .answers import Answer, Ready, StreamProblem, Summary
from .errors import ClientError, StreamClosedError, UnreachableError
from .requests import problem_of
from .retries import ConnectionLostError, Retries

#: The subprotocol.
PROTOCOL = "scmrl.stream.v1"
#: kind, flags, input, sequence number, capture time: little-endian, 16 bytes.
HEADER = struct.Struct("<BBHIQ")
PICTURE, SOUND, SERIES = 1, 2, 3
NEW_SEGMENT = 1
#: Longest message that is received, in bytes: maps as numbers and pictures in base64.
MAX_MESSAGE = 64 << 20
#: Seconds that the end of a stream waits for the service to close it as well, which cannot be heard
#: where answers were not read.
_CLOSE_S = 1.0
#: Answers that may be under way where the caller sets no other number.
_MAX_UNACKNOWLEDGED = 2


class _Input(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PictureInput(_Input):
    """Pictures, each a file of this format."""

    field: Literal["frames"] = "frames"
    format: Literal["jpeg", "png"] = "jpeg"


class SoundInput(_Input):
    """Samples of 16 bits, little-endian, interleaved. `sample_rate`: Hz."""

    field: Literal["audio"] = "audio"
    format: Literal["pcm16"] = "pcm16"
    sample_rate: int
    channels: int = 1


class VideoInput(_Input):
    """H.264 in Annex B, an access unit in each message, with parameter sets at each key frame."""

    field: Literal["frames"] = "frames"
    format: Literal["h264"] = "h264"


class OpusInput(_Input):
    """Opus packets. `channels` of the decoded sound, 1 or 2; `pre_skip`: samples at 48 kHz by which
    the encoder delays it."""

    field: Literal["audio"] = "audio"
    format: Literal["opus"] = "opus"
    channels: int = 1
    pre_skip: int = 312


class SeriesInput(_Input):
    """Values over time, float32, little-endian, for the stream of the checkpoint whose name is
    `field`. `sample_rate`: values a second."""

    field: str
    format: Literal["float32"] = "float32"
    sample_rate: float


Input = PictureInput | SoundInput | VideoInput | OpusInput | SeriesInput


class StreamFields(TypedDict, total=False):
    """The members of `start` other than the inputs; None is as if it were left out."""

    model: str | None
    window_s: float | None
    hop_s: float | None
    steps: int | None
    top_k: int | None
    attention: Literal["none", "grid", "overlay"] | None
    class_activation: Literal["none", "grid", "overlay"] | None
    smoothing: float | None
    max_unacknowledged: int | None


@dataclass(frozen=True)
class StreamRequest:
    """The request that opens a live stream."""

    address: str
    headers: Mapping[str, str]
    timeout_s: float
    retries: Retries
    inputs: tuple[Input, ...]
    fields: StreamFields

    def start(self) -> str:
        """Return the first message."""
        members: dict[str, Any] = {"max_unacknowledged": _MAX_UNACKNOWLEDGED, **self.fields}
        members = {name: value for name, value in members.items() if value is not None}
        inputs = [source.model_dump() for source in self.inputs]
        return json.dumps({"type": "start", "inputs": inputs, **members})

    def options(self) -> dict[str, Any]:
        """Return the options of websockets' `connect`."""
        return {
            "additional_headers": self.headers,
            "subprotocols": [PROTOCOL],
            "open_timeout": self.timeout_s,
            "close_timeout": _CLOSE_S,
            "max_size": MAX_MESSAGE,
            "compression": None,  # pictures are compressed already
        }


class MediaMessages:
    """Makes binary messages: numbers those of each input, and marks those that begin a new segment.

    `time_ns`: capture time in ns of the first sample or of the picture; None: now, less the
    duration of the samples. Methods raise ValueError for another time, and where the stream
    has no such input.
    """

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._inputs = {source.field: source for source in inputs}
        self._numbers = {source.field: number for number, source in enumerate(inputs)}
        self._begin_segment: set[str] = set()
        self._sequences = dict.fromkeys(self._numbers, 0)

    def begin_segment(self) -> None:
        self._begin_segment = set(self._numbers)

    def picture(self, data: bytes, time_ns: int | None) -> bytes:
        return self._message(PICTURE, "frames", data, time_ns)

    def sound(self, data: bytes, time_ns: int | None) -> bytes:
        return self._message(SOUND, "audio", data, time_ns)

    def series(self, field: str, data: bytes, time_ns: int | None) -> bytes:
        return self._message(SERIES, field, data, time_ns)

    def _message(self, kind: int, field: str, data: bytes, time_ns: int | None) -> bytes:
        if field not in self._numbers:
            inputs = ", ".join(self._numbers)
            raise ValueError(f"this stream has no input for {field}; its inputs: {inputs}")
        if time_ns is None:
            time_ns = max(0, time.monotonic_ns() - _duration_ns(self._inputs[field], data))
        if not 0 <= time_ns < 1 << 64:
            raise ValueError(f"time_ns {time_ns}: must be 0 or more, in 64 bits")
        flags = NEW_SEGMENT if field in self._begin_segment else 0
        self._begin_segment.discard(field)
        sequence = self._sequences[field]
        self._sequences[field] = (sequence + 1) % (1 << 32)
        return HEADER.pack(kind, flags, self._numbers[field], sequence, time_ns) + data


def _duration_ns(source: Input, data: bytes) -> int:
    """Return how long samples or values last; 0 for a picture or a packet."""
    if isinstance(source, SoundInput):
        return round(1e9 * len(data) / (2 * source.channels * source.sample_rate))
    if isinstance(source, SeriesInput):
        return round(1e9 * len(data) / (4 * source.sample_rate))
    return 0


Message = Answer | StreamProblem
_Received = Annotated[Ready | Answer | StreamProblem | Summary, Field(discriminator="type")]
_RECEIVED: TypeAdapter[Ready | Answer | StreamProblem | Summary] = TypeAdapter(_Received)


def parse_text(text: str | bytes) -> Ready | Answer | StreamProblem | Summary | None:
    """Parse a message of the service; None: of a type that is not known here."""
    try:
        return _RECEIVED.validate_json(text)
    except ValidationError as exc:
        if exc.errors()[0]["type"] == "union_tag_invalid":
            return None
        raise UnreachableError(f"The service sent an invalid message: {exc.errors()[0]}.") from exc


def acknowledgement(answer: Answer) -> str:
    return json.dumps({"type": "ack", "answer": answer.number})


def control(kind: Literal["finalize", "keepalive", "close"]) -> str:
    return json.dumps({"type": kind})


def check_ready(message: object) -> Ready:
    """Return the first message of the service. Raises StreamClosedError."""
    if not isinstance(message, Ready):
        raise StreamClosedError(1006, f"The service did not begin with `ready`: {message}")
    return message


def end_of(exc: ConnectionClosed | TimeoutError) -> StreamClosedError | None:
    """Return the error of a stream that has ended; None: the service closed it as asked for."""
    if isinstance(exc, TimeoutError):
        return StreamClosedError(1006, "The service did not begin in time.")
    frame = exc.rcvd
    if frame is None:
        return StreamClosedError(1006)
    return None if frame.code == 1000 else StreamClosedError(frame.code, frame.reason)


def refusal(request: StreamRequest, exc: Exception) -> ClientError:
    """Return the error of a connection that was not made."""
    error: ClientError
    if isinstance(exc, InvalidStatus):
        response = exc.response
        error = problem_of(response.status_code, response.headers, bytes(response.body or b""))
    else:
        error = ConnectionLostError(f"{request.address} cannot be reached: {exc}.")
    error.__cause__ = exc
    return error
