"""The messages of a stream: JSON texts in both directions, and binary media from the client."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
)

from model.validation import RealNumber, WholeNumber, describe_located
from service.classification.options import MapDetail
from service.classification.schemas import Classification

#: The subprotocol, for clients that offer one.
PROTOCOL = "scmrl.stream.v1"
#: kind, flags, input, sequence number, capture time: little-endian, 16 bytes.
HEADER = struct.Struct("<BBHIQ")
#: `kind` of a binary message: a picture or a packet of video, sound, or samples of a series.
PICTURE, SOUND, SERIES = 1, 2, 3
#: Bit of `flags`: the message begins a new segment, of which nothing before is a part.
NEW_SEGMENT = 1
#: Most inputs of a session.
_MAX_INPUTS = 8
#: Seconds of one message of a series, at most: shares of a sample are laid out by its rate.
_MAX_SERIES_S = 60


class StreamError(Exception):
    """The session cannot go on. `code`: of the close frame; `reason`: for the client."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


#: Close codes: invalid message; no such checkpoint; no message for too long; the session is at its
#: longest; too many sessions; too many messages; the decoder of its packets was lost.
INVALID, UNKNOWN_MODEL, IDLE, TOO_LONG = 4400, 4404, 4408, 4409
TOO_MANY, TOO_FAST, DECODER_LOST = 4429, 4430, 4431


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PictureInput(_Message):
    """Pictures, each a file of its own (JPEG, PNG, …), for the upload field `frames`."""

    field: Literal["frames"]
    format: Literal["jpeg", "png"] = "jpeg"


class VideoInput(_Message):
    """H.264 in Annex B, an access unit in each message, for the upload field `frames`."""

    field: Literal["frames"]
    format: Literal["h264"]


class SoundInput(_Message):
    """Samples of 16 bits, little-endian, interleaved, for the upload field `audio`."""

    field: Literal["audio"]
    format: Literal["pcm16"] = "pcm16"
    sample_rate: WholeNumber = Field(ge=1000, le=384_000)
    channels: WholeNumber = Field(default=1, ge=1, le=16)


class OpusInput(_Message):
    """Opus packets, one in each message, for the upload field `audio`.

    `channels` of the decoded sound. `pre_skip`: samples at 48 kHz by which the encoder delays it.
    """

    field: Literal["audio"]
    format: Literal["opus"]
    channels: WholeNumber = Field(default=1, ge=1, le=2)
    pre_skip: WholeNumber = Field(default=312, ge=0, le=48_000)


class SeriesInput(_Message):
    """Values over time, float32, little-endian, for a stream of the kind "series": `field` is its
    name. `sample_rate`: values a second."""

    field: str = Field(max_length=100)
    format: Literal["float32"]
    sample_rate: RealNumber = Field(gt=0, le=100_000, allow_inf_nan=False)


def _format(value: Any) -> str:
    """Return the format of an input, by default that of its field."""
    if isinstance(value, _Message):
        return str(getattr(value, "format", ""))
    if not isinstance(value, dict):
        return ""
    defaults = {"frames": "jpeg", "audio": "pcm16"}
    named = value.get("format", defaults.get(str(value.get("field")), ""))
    return "jpeg" if named == "png" else str(named)


Input = Annotated[
    Annotated[PictureInput, Tag("jpeg")]
    | Annotated[VideoInput, Tag("h264")]
    | Annotated[SoundInput, Tag("pcm16")]
    | Annotated[OpusInput, Tag("opus")]
    | Annotated[SeriesInput, Tag("float32")],
    Discriminator(
        _format,
        custom_error_type="unknown_format",
        # The reason of a close frame has at most 123 bytes.
        custom_error_message="field and format must be frames (jpeg, png, h264), audio (pcm16, "
        "opus) or values over time (float32)",
    ),
]
#: Inputs whose messages are packets for a decoder that keeps its state.
CodedInput = VideoInput | OpusInput


class Start(_Message):
    """The first message: what is sent, and how it is answered.

    - `inputs`: by their number in the header of binary messages.
    - `window_s`: seconds that an answer is about, by default 2, or what the checkpoint's sound
      needs if that is more; `hop_s`: between two answers, by default a quarter of the window.
    - `steps`, `top_k`, `attention`, `class_activation`: as the fields of POST /v1/classify.
    - `smoothing`: share of the answers before in the smoothed probabilities, 0 (none) to 0.99.
    - `max_unacknowledged`: answers that may be sent before they are acknowledged; null: any number.
    """

    type: Literal["start"]
    inputs: tuple[Input, ...] = Field(min_length=1, max_length=_MAX_INPUTS)
    model: str | None = Field(default=None, max_length=200)
    window_s: RealNumber | None = Field(default=None, ge=0.1, le=60, allow_inf_nan=False)
    hop_s: RealNumber | None = Field(default=None, ge=0.05, le=60, allow_inf_nan=False)
    steps: WholeNumber | None = Field(default=None, ge=1, le=64)
    top_k: WholeNumber | None = Field(default=None, ge=1)
    attention: MapDetail = "none"
    class_activation: MapDetail = "none"
    smoothing: RealNumber = Field(default=0.5, ge=0, le=0.99, allow_inf_nan=False)
    max_unacknowledged: WholeNumber | None = Field(default=None, ge=1, le=1000)


class Keepalive(_Message):
    """Nothing is sent for now; the session stays open."""

    type: Literal["keepalive"]


class Finalize(_Message):
    """Answer now, whatever the hop."""

    type: Literal["finalize"]


class Close(_Message):
    """Answer what has not been answered, send a summary, and end."""

    type: Literal["close"]


class Acknowledge(_Message):
    """The answers up to this number have been received."""

    type: Literal["ack"]
    answer: WholeNumber = Field(ge=0)


Control = Annotated[Keepalive | Finalize | Close | Acknowledge, Field(discriminator="type")]
_CONTROL: TypeAdapter[Keepalive | Finalize | Close | Acknowledge] = TypeAdapter(Control)


def parse_start(text: str) -> Start:
    """Parse the first message. Raises StreamError."""
    try:
        start = Start.model_validate_json(text)
    except ValidationError as exc:
        raise StreamError(INVALID, f"start: {describe_located(exc.errors()[0])}") from exc
    fields = [source.field for source in start.inputs]
    for field in fields:
        if fields.count(field) > 1:
            raise StreamError(INVALID, f"start: inputs: {field} is listed twice")
    return start


def parse_control(text: str) -> Keepalive | Finalize | Close | Acknowledge:
    """Parse a later text. Raises StreamError."""
    try:
        return _CONTROL.validate_json(text)
    except ValidationError as exc:
        raise StreamError(INVALID, f"text: {describe_located(exc.errors()[0])}") from exc


@dataclass(frozen=True)
class Media:
    """A binary message: `payload` of the input of this number, captured at `time_ns`."""

    input: int
    sequence: int
    time_ns: int
    is_new_segment: bool
    payload: bytes


def parse_media(data: bytes, start: Start) -> Media:
    """Parse a binary message. Raises StreamError."""
    if len(data) <= HEADER.size:
        raise StreamError(
            INVALID, f"a binary message of {len(data)} bytes; the header alone has {HEADER.size}"
        )
    kind, flags, number, sequence, time_ns = HEADER.unpack_from(data)
    if number >= len(start.inputs):
        raise StreamError(
            INVALID, f"no input {number}; `inputs` has {len(start.inputs)}, numbered from 0"
        )
    source = start.inputs[number]
    expected = _kind(source)
    if kind != expected:
        raise StreamError(INVALID, f"kind {kind}, but input {number} takes kind {expected}")
    if time_ns >= 1 << 63:
        raise StreamError(INVALID, "a capture time of 2^63 ns or more")
    payload = data[HEADER.size :]
    _check_samples(len(payload), source)
    return Media(number, sequence, time_ns, bool(flags & NEW_SEGMENT), payload)


def _kind(source: Input) -> int:
    if isinstance(source, PictureInput | VideoInput):
        return PICTURE
    return SERIES if isinstance(source, SeriesInput) else SOUND


def _check_samples(size: int, source: Input) -> None:
    """Raise StreamError where the bytes of a message are no whole samples."""
    if isinstance(source, SoundInput) and size % (2 * source.channels):
        raise StreamError(
            INVALID, f"{size} bytes of sound: not whole samples of {source.channels} channels"
        )
    if isinstance(source, SeriesInput):
        if size % 4:
            raise StreamError(INVALID, f"{size} bytes of {source.field}: not whole float32 values")
        if size / 4 > max(1, _MAX_SERIES_S * source.sample_rate):
            raise StreamError(
                INVALID,
                f"{size // 4} values of {source.field} in a message, more than {_MAX_SERIES_S} s",
            )


class Ready(_Message):
    """The answer to `start`: what holds for the session."""

    type: Literal["ready"] = "ready"
    id: str
    model: str
    window_s: float
    hop_s: float
    steps: int | None


class Window(_Message):
    """The window of an answer: capture times in ns, and the newest of each input, by field."""

    begin_ns: int
    end_ns: int
    newest_ns: dict[str, int]


class Answer(_Message):
    """The answer to one window.

    - `number`: from 0; `final`: whether it was asked for by `finalize` or `close`.
    - `dropped`: messages of each input, by field, that no answer was about, since the last answer:
      late, or pushed out. `skipped`: hops without an answer since the last one.
    - `packets`: of each input in H.264 or Opus, by field: its packets since the last answer, by
      outcome.
    - `smoothed`: probabilities, by label, averaged over this segment's answers.
    - `behind_ms`: from the capture of the newest message to this answer, by the shortest delay of
      the session's messages.
    - `segment`: from 0; a new one begins where time jumps.
    """

    type: Literal["answer"] = "answer"
    number: int
    final: bool
    segment: int
    window: Window
    dropped: dict[str, int]
    skipped: int
    packets: dict[str, dict[str, int]] | None = None
    smoothed: dict[str, float]
    behind_ms: float
    result: Classification


class Failed(_Message):
    """A window that could not be classified, or packets that could not be decoded; the session goes
    on."""

    type: Literal["problem"] = "problem"
    error: str
    status: int
    detail: str
    retry_after_s: float | None = None


class Summary(_Message):
    """The last message of a session that the client closes. Counts are of the whole session."""

    type: Literal["summary"] = "summary"
    seconds: float
    answers: int
    skipped: int
    messages: dict[str, int]
    dropped: dict[str, int]
    packets: dict[str, dict[str, int]] | None = None
    segments: int
