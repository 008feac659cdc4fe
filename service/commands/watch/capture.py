"""Pictures and sound of a file, an address or a device, by PyAV, with their capture times."""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.video.frame import VideoFrame

from model.media.pyav import display_matrix

_NS = 1_000_000_000
#: Seconds until an address must have sent what it holds, and of silence after which it has ended.
_OPEN_TIMEOUT_S, _READ_TIMEOUT_S = 20.0, 5.0
#: FFmpeg's format of devices by platform: of cameras, of microphones, and how names are prefixed.
_DEVICES = {
    "linux": {"video": ("v4l2", ""), "audio": ("alsa", "")},
    "darwin": {"video": ("avfoundation", ""), "audio": ("avfoundation", ":")},
    "win32": {"video": ("dshow", "video="), "audio": ("dshow", "audio=")},
}
#: Where distributions have ALSA's configuration and its plug-ins, such as those of PulseAudio.
_ALSA_CONFIGURATION = Path("/usr/share/alsa")
_ALSA_PLUGINS = [
    Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "", "alsa-lib"),
    Path("/usr/lib64/alsa-lib"),
    Path("/usr/lib/alsa-lib"),
]
#: Shortest sound of a message: a microphone may deliver a thousand pieces a second.
_SOUND_NS = 20_000_000
#: RTSP over TCP: lost packets of UDP would be pictures of grey blocks.
_LIVE_OPTIONS = {"rtsp_transport": "tcp", "fflags": "nobuffer"}

#: Exceptions of reading a source.
READ_ERRORS = (OSError, av.FFmpegError)


class CaptureError(Exception):
    """A source cannot be opened, or has neither pictures nor sound."""


@dataclass(frozen=True)
class Picture:
    """A JPEG, captured at `time_ns` of time.monotonic_ns()."""

    data: bytes
    time_ns: int


@dataclass(frozen=True)
class Sound:
    """Samples of 16 bits, interleaved, the first of them captured at `time_ns`."""

    data: bytes
    time_ns: int


@dataclass
class Source:
    """An open source. `clock`: what a time stamp of it means.

    - `file`: seconds of the file, which is played in real time;
    - `live`: seconds of the sender's clock, from the first packet on;
    - `arrival`: nothing: two devices have no clock in common, but their frames arrive at once.
    """

    container: InputContainer
    clock: Literal["file", "live", "arrival"]
    name: str
    _stopped: threading.Event = field(default_factory=threading.Event)
    _began_ns: int | None = None

    @property
    def has_pictures(self) -> bool:
        return bool(self.container.streams.video)

    @property
    def sound(self) -> tuple[int, int] | None:
        """Sample rate in Hz and channels of the sound, if there is one."""
        if not self.container.streams.audio:
            return None
        context = self.container.streams.audio[0].codec_context
        return context.sample_rate, context.layout.nb_channels

    def stop(self) -> None:
        """End `read`, from any thread."""
        self._stopped.set()

    def close(self) -> None:
        self.container.close()

    def read(self, fps: float, width: int) -> Iterator[Picture | Sound]:
        """Yield pictures, at most `fps` a second and `width` pixels long, and sound, in real time,
        until the source ends or is stopped. Raises READ_ERRORS."""
        streams = [*self.container.streams.video[:1], *self.container.streams.audio[:1]]
        convert = _Converter(fps, width, self.sound)
        for packet in self.container.demux(streams):
            for frame in _decode(packet):
                if self._stopped.is_set():
                    return
                time_ns = self._time_ns(frame)
                if self.clock == "file":
                    self._stopped.wait(max(0.0, (time_ns - time.monotonic_ns()) / _NS))
                yield from convert(frame, time_ns)
        yield from convert.flush()

    def _time_ns(self, frame: VideoFrame | AudioFrame) -> int:
        now_ns = time.monotonic_ns()
        if self.clock == "arrival" or frame.time is None:
            length = frame.samples / frame.sample_rate if isinstance(frame, AudioFrame) else 0.0
            return now_ns - round(length * _NS)
        at_ns = round(frame.time * _NS)
        if self._began_ns is None:
            self._began_ns = now_ns - at_ns
        return self._began_ns + at_ns


def _decode(packet: Any) -> list[VideoFrame | AudioFrame]:
    """Decode a packet; one that is damaged, as by a lossy network, has no frames."""
    try:
        return list(packet.decode())
    except av.error.InvalidDataError:
        return []


class _Converter:
    """Makes JPEGs and PCM16 of decoded frames; short pieces of sound are joined."""

    def __init__(self, fps: float, width: int, sound: tuple[int, int] | None) -> None:
        self._interval_ns = round(_NS / fps)
        self._width = width
        self._due_ns = 0
        self._rate = sound[0] if sound else 0
        # The layout of the source is kept: the service mixes channels that cancel each other.
        self._resampler = AudioResampler(format="s16", rate=self._rate) if sound else None
        self._bytes_per_s = 2 * self._rate * sound[1] if sound else 0
        self._pending = bytearray()
        self._pending_ns = 0

    def __call__(self, frame: VideoFrame | AudioFrame, time_ns: int) -> Iterator[Picture | Sound]:
        if isinstance(frame, AudioFrame):
            yield from self._sound(frame, time_ns)
        elif time_ns >= self._due_ns:
            self._due_ns = max(self._due_ns, time_ns - self._interval_ns) + self._interval_ns
            yield Picture(self._jpeg(frame), time_ns)

    def flush(self) -> Iterator[Sound]:
        """Yield the sound that is too short for a message of its own."""
        if self._pending:
            yield Sound(bytes(self._pending), self._pending_ns)
            self._pending.clear()

    def _sound(self, frame: AudioFrame, time_ns: int) -> Iterator[Sound]:
        assert self._resampler is not None
        if abs(time_ns - self._pending_ns - self._length_ns()) > _SOUND_NS:  # a gap
            yield from self.flush()
        if not self._pending:
            self._pending_ns = time_ns
        for resampled in self._resampler.resample(frame):
            self._pending += resampled.to_ndarray().astype("<i2").tobytes()
        if self._length_ns() >= _SOUND_NS:
            yield from self.flush()

    def _length_ns(self) -> int:
        return round(len(self._pending) / self._bytes_per_s * _NS)

    def _jpeg(self, frame: VideoFrame) -> bytes:
        scale = min(1.0, self._width / max(frame.width, frame.height))
        size = {"width": round(frame.width * scale), "height": round(frame.height * scale)}
        pixels = frame.reformat(**size, format="bgr24").to_ndarray()
        _, jpeg = cv2.imencode(".jpg", _upright(pixels, display_matrix(frame)))
        return jpeg.tobytes()


def _upright(pixels: Any, matrix: tuple[int, int, int, int] | None) -> Any:
    """Return the picture as it is displayed: telephones store it turned."""
    a, b, _, d = matrix or (1, 0, 0, 1)
    if a == 0:
        return np.rot90(pixels, 1 if b < 0 else 3)
    return np.rot90(pixels, 2) if d < 0 else pixels


def open_file(path: Path, options: dict[str, str]) -> Source:
    """Open a file, which is played in real time. Raises CaptureError."""
    return Source(_open(str(path), None, options, timeout=None), "file", path.name)


def open_address(address: str, options: dict[str, str]) -> Source:
    """Open an address that sends in real time. Raises CaptureError."""
    timeout = (_OPEN_TIMEOUT_S, _READ_TIMEOUT_S)
    return Source(_open(address, None, _LIVE_OPTIONS | options, timeout=timeout), "live", address)


def open_device(kind: Literal["video", "audio"], name: str, options: dict[str, str]) -> Source:
    """Open a camera (`video`) or a microphone (`audio`). Raises CaptureError."""
    if sys.platform not in _DEVICES:
        raise CaptureError(f"there is no format of devices for {sys.platform}; use an address")
    format_name, prefix = _DEVICES[sys.platform][kind]
    if format_name == "alsa":
        _find_alsa()
    container = _open(f"{prefix}{name}", format_name, options, timeout=None)
    return Source(container, "arrival", name)


def _find_alsa() -> None:
    """Tell ALSA where the system's configuration and plug-ins are: the ALSA in PyAV's wheels looks
    for them in the folder in which it was built. Variables that are set are left alone."""
    is_set = {"ALSA_CONFIG_DIR", "ALSA_CONFIG_PATH"} & os.environ.keys()
    if not is_set and (_ALSA_CONFIGURATION / "alsa.conf").is_file():
        os.environ["ALSA_CONFIG_DIR"] = str(_ALSA_CONFIGURATION)
    plugins = next((folder for folder in _ALSA_PLUGINS if folder.is_dir()), None)
    if plugins is not None:
        os.environ.setdefault("ALSA_PLUGIN_DIR", str(plugins))


def _open(name: str, format_name: str | None, options: dict[str, str], timeout: Any) -> Any:
    try:
        container = av.open(name, "r", format=format_name, options=options, timeout=timeout)
    except (OSError, ValueError, av.FFmpegError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        if isinstance(exc, av.InvalidDataError):
            reason = "it is damaged, or neither a video nor a sound"
        raise CaptureError(f"cannot open {name}: {reason}{_known_devices(format_name)}") from exc
    if not container.streams.video and not container.streams.audio:
        container.close()
        raise CaptureError(f"{name} has neither pictures nor sound")
    return container


def _known_devices(format_name: str | None) -> str:
    """Return the devices that there are, for an error."""
    if format_name is None:
        return ""
    try:
        devices = av.device.enumerate_input_devices(format_name)
    except (AttributeError, OSError, ValueError, av.FFmpegError):
        return ""
    return f"; {format_name} has {', '.join(device.name for device in devices) or 'no devices'}"
