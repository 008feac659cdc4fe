"""Pictures and sound of a ROS 2 recording, by rosbags, with their stamps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import av
import cv2
import numpy as np
from av.audio.resampler import AudioResampler

_NS = 1_000_000_000
_COMPRESSED, _RAW = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image"
_AUDIO, _STAMPED = "audio_common_msgs/msg/AudioData", "audio_common_msgs/msg/AudioDataStamped"
_INFO = "audio_common_msgs/msg/AudioInfo"
IMAGES, SOUNDS = (_COMPRESSED, _RAW), (_AUDIO, _STAMPED)
#: The messages of audio_common, for recordings of before ROS 2 Iron, which have no definitions.
_AUDIO_MESSAGES = {
    _AUDIO: "uint8[] data",
    _STAMPED: "std_msgs/Header header\naudio_common_msgs/AudioData audio",
    _INFO: "uint8 channels\nuint32 sample_rate\nstring sample_format\nuint32 bitrate\n"
    "string coding_format",
}


class RecordingError(Exception):
    """A recording cannot be read, or has no topic that can be used."""


@dataclass(frozen=True)
class SoundFormat:
    """`name`: `pcm16`, a decoder of FFmpeg, or `auto`. Rate in Hz and channels: of pcm16."""

    name: str
    sample_rate: int
    channels: int


@dataclass(frozen=True)
class Picture:
    """A picture file."""

    time_ns: int
    data: bytes


@dataclass(frozen=True)
class Sound:
    """Samples of 16 bits, interleaved, the first of them at `time_ns`."""

    time_ns: int
    data: bytes
    sample_rate: int
    channels: int


@dataclass(frozen=True)
class Choice:
    """The choice of topics and times.

    - `image`, `audio`: topics; None: the only one of its types.
    - `sound`: format of the sound.
    - `use_log_time`: use the times at which messages were recorded, not their stamps.
    """

    image: str | None
    audio: str | None
    sound: SoundFormat
    use_log_time: bool


class Recording:
    """An open recording, and the topics of it that are used."""

    def __init__(self, reader: Any, choice: Choice) -> None:
        self._reader = reader
        self._topics = {
            topic
            for topic in (
                _choose(reader, choice.image, IMAGES),
                _choose(reader, choice.audio, SOUNDS),
            )
            if topic is not None
        }
        if not self._topics:
            raise RecordingError(f"no topic of {', '.join(IMAGES + SOUNDS)}; {_listed(reader)}")
        self._choice = choice
        self._decode: _SoundDecoder | None = None

    def read(self, interval_ns: int) -> Iterator[Picture | Sound]:
        """Yield pictures and sound in the order recorded; of raw pictures, which are encoded here,
        no two within `interval_ns`. Raises RecordingError.
        """
        info = self._info()
        last_ns = -interval_ns
        used = [c for c in self._reader.connections if c.topic in self._topics]
        for connection, logged_ns, raw in self._reader.messages(connections=used):
            message = self._reader.deserialize(raw, connection.msgtype)
            stamp_ns = 0 if self._choice.use_log_time else _stamp_ns(message)
            time_ns = stamp_ns or logged_ns
            if connection.msgtype in SOUNDS:
                data = (message.audio if connection.msgtype == _STAMPED else message).data
                if self._decode is None:
                    self._decode = _decoder(self._choice.sound, info, data.tobytes())
                yield from self._decode(time_ns, data.tobytes())
            elif connection.msgtype == _COMPRESSED or not 0 <= time_ns - last_ns < interval_ns:
                last_ns = time_ns
                yield Picture(time_ns, _picture(message, connection))

    def _info(self) -> Any:
        """Return the first AudioInfo, if one was recorded."""
        used = [c for c in self._reader.connections if c.msgtype == _INFO]
        for connection, _, raw in self._reader.messages(connections=used) if used else ():
            return self._reader.deserialize(raw, connection.msgtype)
        return None


@contextmanager
def open_recording(path: Path, choice: Choice) -> Iterator[Recording]:
    """Open a recording, and choose its topics. Raises RecordingError."""
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as exc:
        raise RecordingError("needs rosbags: pip install 'scmrl[robots]'") from exc
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in _AUDIO_MESSAGES.items():
        store.register(get_types_from_msg(text, name))
    if not path.exists():
        raise RecordingError(f"cannot read {path}: No such file or directory")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        raise RecordingError(
            f"{path} is not the folder of a recording: it has no metadata.yaml; pass a .mcap or "
            ".db3 file"
        )
    try:
        reader = AnyReader([path], default_typestore=store)
        reader.open()
    except (AnyReaderError, OSError, ValueError) as exc:
        raise RecordingError(f"cannot read {path}: {exc}") from exc
    try:
        yield Recording(reader, choice)
    except AnyReaderError as exc:
        raise RecordingError(f"{path} is damaged: {exc}") from exc
    finally:
        reader.close()


def _choose(reader: Any, requested: str | None, kinds: tuple[str, ...]) -> str | None:
    """Return the topic of one of these types: the one that is wanted, or the only one."""
    topics = sorted({c.topic for c in reader.connections if c.msgtype in kinds})
    if requested is not None and requested not in topics:
        raise RecordingError(f"{requested}: no topic of {', '.join(kinds)}; {_listed(reader)}")
    if requested is None and len(topics) > 1:
        raise RecordingError(f"choose a topic of {', '.join(topics)}: --image or --audio")
    return requested or next(iter(topics), None)


def _listed(reader: Any) -> str:
    topics = sorted({f"{c.topic} ({c.msgtype})" for c in reader.connections})
    return f"there are: {', '.join(topics) or 'none'}"


def _stamp_ns(message: Any) -> int:
    """Return the stamp of a message; 0 where it has none."""
    header = getattr(message, "header", None)
    return header.stamp.sec * _NS + header.stamp.nanosec if header else 0


def _picture(message: Any, connection: Any) -> bytes:
    """Return a picture file: that of a CompressedImage, or a PNG. Raises RecordingError."""
    from rosbags.image import ImageError, message_to_cvimage

    if connection.msgtype == _COMPRESSED:
        return bytes(message.data.tobytes())
    row = message.step or len(message.data) // max(message.height, 1)
    per_pixel = row // max(message.width, 1)
    rows = message.data.reshape(message.height, row)[:, : message.width * per_pixel]
    message.data = np.ascontiguousarray(rows).reshape(-1)  # rows may be padded
    try:
        pixels = message_to_cvimage(message, "bgr8")
    except ImageError as exc:
        raise RecordingError(f"{connection.topic}: {exc}") from exc
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


class _SoundDecoder(Protocol):
    """Decodes the data of one message, stamped `time_ns`, to PCM of 16 bits."""

    def __call__(self, time_ns: int, data: bytes) -> Iterator[Sound]: ...


def _decoder(sound: SoundFormat, info: Any, first: bytes) -> _SoundDecoder:
    """Return the decoder of the sound messages. Raises RecordingError.

    `info`: the recording's AudioInfo or None; `first`: data of the first message, by which the
    format `auto` tells mp3 from pcm16.
    """
    name, rate, channels = sound.name, sound.sample_rate, sound.channels
    if info is not None:
        rate, channels = info.sample_rate or rate, info.channels or channels
    if name == "auto":
        coding = info.coding_format.lower() if info is not None else ""
        is_mp3 = first[:3] == b"ID3" or (len(first) > 1 and first[0] == 0xFF and first[1] >= 0xE2)
        name = "pcm16" if coding in ("wave", "pcm") else coding or ("mp3" if is_mp3 else "pcm16")
    if name == "pcm16":
        return _Pcm16(rate, channels)
    try:
        return _FfmpegDecoder(name)
    except (ValueError, av.FFmpegError) as exc:
        raise RecordingError(
            f"sound as {name}: there is no decoder of that name; --audio-format can be auto, pcm16 "
            "or a decoder of FFmpeg, such as mp3"
        ) from exc


@dataclass(frozen=True)
class _Pcm16:
    """Passes samples on, without an incomplete frame at the end of a message."""

    sample_rate: int
    channels: int

    def __call__(self, time_ns: int, data: bytes) -> Iterator[Sound]:
        whole = len(data) // (2 * self.channels) * 2 * self.channels
        yield Sound(time_ns, data[:whole], self.sample_rate, self.channels)


class _FfmpegDecoder:
    """Decodes a compressed sound whose messages need not end with its frames."""

    def __init__(self, name: str) -> None:
        self._context: Any = av.CodecContext.create(name, "r")
        self._resampler = AudioResampler(format="s16")

    def __call__(self, time_ns: int, data: bytes) -> Iterator[Sound]:
        for packet in self._context.parse(data):
            for frame in self._frames(packet):
                for resampled in self._resampler.resample(frame):
                    samples = resampled.to_ndarray().astype("<i2").tobytes()
                    channels = resampled.layout.nb_channels
                    yield Sound(time_ns, samples, resampled.sample_rate, channels)
                    time_ns += resampled.samples * _NS // resampled.sample_rate

    def _frames(self, packet: Any) -> list[Any]:
        """Decode a packet; a tag or an incomplete packet has no frames."""
        try:
            return list(self._context.decode(packet))
        except av.error.InvalidDataError:
            return []
