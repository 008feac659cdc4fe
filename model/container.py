"""Sound and frames out of containers (mp4, mov, webm, mkv, avi, flv, …), by PyAV, in memory.

One pass over the packets decodes the sound and notes when each frame is shown. Only then is it
known how long the clip is, whatever its header says, and which frames are wanted; the video
decoder is given the groups of pictures that hold one, and nothing else is converted to RGB.
That is decoding in order where a clip is short and seeking where it is long, without an index.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, NoReturn

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from model.clip import Clip, Limits, Pictures, Sound, TooLarge, UnknownFormat, Unusable

#: What may be opened. Left out on purpose: playlists (they name other files and addresses),
#: pictures (OpenCV reads those), raw streams and everything that no clip comes in.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,ogg,asf,gif,"
    "mp3,wav,w64,aiff,flac,aac,ac3,eac3,amr,amrnb,amrwb,caf,au,tta"
)
#: Bytes by which a damaged file is still known for one of these: (offset, bytes).
_SIGNATURES: tuple[tuple[int, bytes], ...] = (
    *((4, box) for box in (b"ftyp", b"moov", b"mdat", b"moof", b"wide", b"free")),
    *((0, head) for head in (b"\x1a\x45\xdf\xa3", b"RIFF", b"RF64", b"FLV\x01", b"OggS", b"ID3")),
    *((0, head) for head in (b"fLaC", b"GIF8", b"FORM", b"caff", b"#!AMR", b"\x00\x00\x01\xba")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
)

#: A clip may exceed the limit by this much: encoders pad the last block of sound.
SLACK_S = 0.25
#: More packets than any honest clip of a minute has; each costs memory.
_MAX_PACKETS = 200_000
#: Two times this close are the same: containers round them.
_SAME_S = 1e-4
#: PyAV looks for the end of a frame's planes where 8 or more leave none, and the process dies.
_UNSAFE_PLANES = 8
#: Pixels more oblong than this are damage, not a format.
_MAX_ASPECT = 4.0

Kind = Literal["audio", "video"]
_NOUNS: dict[Kind, str] = {"audio": "sound", "video": "picture"}


class _Shown(NamedTuple):
    """A packet of video, when its frame is shown (s), and whether decoding can start at it."""

    packet: Packet[Any]
    time: float
    key: bool


def read_container(
    data: bytes, frames: int, *, sound: bool, pictures: bool, limits: Limits, accepted: str
) -> Clip:
    """`frames` pictures, evenly spread by time, and the sound, as far as they are asked for.

    Raises UnknownFormat (naming what is `accepted`), Unusable (known, but it cannot be opened)
    and TooLarge.
    """
    with _opened(data, accepted) as container:
        audio, no_sound = _chosen(container, "audio") if sound else (None, None)
        video, no_picture = _chosen(container, "video") if pictures else (None, None)
        samples, timeline = _Samples(limits), _Timeline(limits)
        for packet in _packets(container, [s for s in (audio, video) if s is not None]):
            if audio is not None and packet.stream_index == audio.index:
                samples.add(packet)
            else:
                timeline.add(packet)
        heard = seen = None
        if audio is not None:
            heard, no_sound = samples.sound()
        if video is not None:
            seen, no_picture = _spread(video, timeline, frames, limits)
        return Clip(heard, seen, no_sound, no_picture)


def _opened(data: bytes, accepted: str) -> InputContainer:
    try:
        return av.open(
            io.BytesIO(data),
            "r",
            metadata_errors="ignore",
            options={"format_whitelist": _FORMATS},
            io_open=_refused,
        )
    except MemoryError:
        raise
    except Exception as error:  # FFmpeg's errors, and builtin ones on some damage
        if any(data[at : at + len(mark)] == mark for at, mark in _SIGNATURES):
            raise Unusable("the file is damaged or cut short: it cannot be opened") from error
        raise UnknownFormat(
            f"this is not a kind of file that is read here, whatever its name; send {accepted}"
        ) from error


def _refused(*_: Any, **__: Any) -> NoReturn:
    """A container may name further files; none is opened."""
    raise PermissionError("a clip may not refer to other files")


def _chosen(container: InputContainer, kind: Kind) -> tuple[Stream | None, str | None]:
    """The stream to read, the default one if several are there; or None and why."""
    noun = _NOUNS[kind]
    streams = [stream for stream in container.streams if stream.type == kind]
    if not streams:
        return None, f"there is no {noun} in it"
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        return None, f"its {noun} is in a codec that is not read here"
    streams = [s for s in streams if not s.disposition & Disposition.attached_pic]
    if not streams:
        return None, "its only picture is cover art"
    return max(streams, key=lambda stream: bool(stream.disposition & Disposition.default)), None


def _packets(container: InputContainer, streams: list[Stream]) -> Iterator[Packet[Any]]:
    """The streams' packets, up to the end or to where the file is damaged."""
    if not streams:
        return
    packets = container.demux(streams)
    for _ in range(_MAX_PACKETS):
        try:
            packet = next(packets, None)
        except MemoryError:
            raise
        except Exception:  # what came before the damage counts
            return
        if packet is None:
            return
        if packet.size:
            yield packet
    raise TooLarge(f"the file has more than {_MAX_PACKETS} packets")


def _decoded(stream: Stream, packet: Packet[Any] | None) -> list[Any]:
    """The frames that a packet completes (None: those that the decoder holds), none if damaged."""
    try:
        return list(stream.codec_context.decode(packet))  # type: ignore[attr-defined]
    except MemoryError:
        raise
    except Exception:  # FFmpeg's errors, and builtin ones on some damage
        return []


# --- sound ---------------------------------------------------------------------------------


class _Samples:
    """Decoded sound, gathered piece by piece within the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pieces: list[NDArray[np.float32]] = []
        self._rate = self._channels = self._length = 0
        self._packed = av.AudioResampler("flt")

    def add(self, packet: Packet[Any]) -> None:
        """Decode a packet; raises TooLarge or Unusable as `check_sound` does."""
        for frame in _decoded(packet.stream, packet):
            piece = self._piece(frame)
            if piece is None or not piece.shape[1]:
                continue
            if not self._rate:
                self._rate, self._channels = frame.sample_rate, piece.shape[0]
            if (frame.sample_rate, piece.shape[0]) != (self._rate, self._channels):
                continue  # damage: no encoder changes these within a stream
            self._pieces.append(piece)
            self._length += piece.shape[1]
            check_sound(self._rate, self._channels, self._length, self._limits)

    def _piece(self, frame: AudioFrame) -> NDArray[np.float32] | None:
        """Samples [channels, n]; None for a format that PyAV does not hand over."""
        try:
            if frame.format.is_planar and frame.layout.nb_channels >= _UNSAFE_PLANES:
                packed = [_samples(part) for part in self._packed.resample(frame)]
                return np.concatenate(packed, axis=1) if packed else None
            return _samples(frame)
        except (ValueError, av.error.FFmpegError):
            return None

    def sound(self) -> tuple[Sound | None, str | None]:
        """The sound, or None and why."""
        if not self._length:
            return None, "its sound is damaged or empty: nothing of it could be decoded"
        samples = np.concatenate(self._pieces, axis=1)
        if not np.isfinite(samples).all():
            return None, "its sound holds values that are no numbers (NaN or infinite)"
        return Sound(samples, self._rate), None


def check_sound(rate: int, channels: int, length: int, limits: Limits) -> None:
    """Raises TooLarge or Unusable where `length` samples of each channel exceed the limits."""
    if not limits.min_sample_rate <= rate <= limits.max_sample_rate:
        raise Unusable(
            f"its sound has {rate} samples a second; "
            f"{limits.min_sample_rate} to {limits.max_sample_rate} are accepted"
        )
    if channels > limits.max_channels:
        raise TooLarge(f"its sound has {channels} channels; at most {limits.max_channels}")
    if length > (limits.max_duration_s + SLACK_S) * rate:
        raise TooLarge(f"its sound is longer than {limits.max_duration_s:g} s")
    if length * channels > limits.max_samples:
        raise TooLarge(f"its sound has more than {limits.max_samples} samples")


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    """Samples [channels, n] in [-1, 1]; ValueError for a format that PyAV does not hand over."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
            return np.asarray(values, np.float32)
    if values.dtype.kind == "u":
        return np.asarray((values.astype(np.float32) - 128) / 128, np.float32)
    full = 2.0 ** (8 * values.dtype.itemsize - 1)
    return np.asarray(values.astype(np.float32) / full, np.float32)


# --- pictures ------------------------------------------------------------------------------


class _Timeline:
    """The video's packets in decoding order, and when each frame is shown."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.packets: list[_Shown] = []
        self._first = float("inf")
        self._last = 0.0

    def add(self, packet: Packet[Any]) -> None:
        """Note a packet; raises TooLarge once they span more than the limit."""
        time = self._time(packet)
        self.packets.append(_Shown(packet, time, packet.is_keyframe))
        if packet.is_discard:  # decoded, but cut away by the container
            return
        self._first = min(self._first, time)
        self._last = max(self._last, time)
        if self._last - self._first > self._limits.max_duration_s + SLACK_S:
            raise TooLarge(f"its pictures last longer than {self._limits.max_duration_s:g} s")

    def _time(self, packet: Packet[Any]) -> float:
        decoded = packet.pts is None or _is_shown_in_order(packet.stream)
        stamp = packet.dts if decoded else packet.pts
        if stamp is not None and packet.time_base:
            return float(stamp * packet.time_base)
        if not self.packets:
            return 0.0
        return self.packets[-1].time + 1 / float(packet.stream.average_rate or 25)

    def wanted(self, frames: int) -> tuple[float, list[float]]:
        """When the first frame is shown, and the frames shown at the centres of equal parts."""
        times = sorted({p.time for p in self.packets if not p.packet.is_discard})
        if not times:
            return 0.0, []
        span = times[-1] - times[0] + self._last_duration(times)
        centres = [times[0] + (part + 0.5) / frames * span for part in range(frames)]
        shown = [max(0, bisect_right(times, at + _SAME_S) - 1) for at in centres]
        return times[0], [times[index] for index in shown]

    def _last_duration(self, times: list[float]) -> float:
        """How long the last frame is shown: as its packet says, or like most others."""
        usual = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        said = next((p.packet for p in self.packets if p.time == times[-1]), None)
        if said is None or not said.duration or not said.time_base:
            return usual
        limit = self._limits.max_duration_s
        return min(float(said.duration * said.time_base), max(usual, limit - times[-1] + times[0]))


class _Decoder:
    """Frames by the time at which they are shown, asked for in rising order."""

    def __init__(self, stream: Stream, packets: list[_Shown]) -> None:
        self._stream = stream
        self._packets = packets
        self._keys = [index for index, packet in enumerate(packets) if packet.key]
        self._next = 0
        self._given = 0  # frames since the first packet, were all of them decoded
        self._held: deque[tuple[VideoFrame, float | None]] = deque()
        self._drained = False

    def at(self, time: float) -> VideoFrame | None:
        """The frame shown at `time`; where it is damaged, the one before or else after it."""
        start = self._start(time)
        if start > self._next:
            self._jump(start)
        before = None
        while decoded := self._frame():
            frame, shown = decoded
            if shown is None or shown < time - _SAME_S:
                before = frame
                continue
            if shown <= time + _SAME_S or before is None:
                return frame
            self._held.appendleft(decoded)
            break
        return before

    def _start(self, time: float) -> int:
        """The last packet to begin decoding at."""
        return max((i for i in self._keys if self._packets[i].time <= time + _SAME_S), default=0)

    def _jump(self, start: int) -> None:
        self._stream.codec_context.flush_buffers()
        self._held.clear()
        self._next = self._given = start
        self._drained = False

    def _frame(self) -> tuple[VideoFrame, float | None] | None:
        while not self._held:
            if self._next < len(self._packets):
                self._hold(_decoded(self._stream, self._packets[self._next].packet))
                self._next += 1
            elif not self._drained:
                self._drained = True
                self._hold(_decoded(self._stream, None))
            else:
                return None
        return self._held.popleft()

    def _hold(self, frames: list[VideoFrame]) -> None:
        for frame in frames:
            self._held.append((frame, self._time(frame)))
            self._given += 1

    def _time(self, frame: VideoFrame) -> float | None:
        if _is_shown_in_order(self._stream):
            return self._packets[min(self._given, len(self._packets) - 1)].time
        stamp = frame.dts if frame.pts is None else frame.pts
        unit = frame.time_base or self._stream.time_base  # drained frames come without one
        return None if stamp is None or unit is None else float(stamp * unit)


def _is_shown_in_order(stream: Stream) -> bool:
    """AVI knows when packets are decoded only; what FFmpeg guesses is wrong with B-frames."""
    return stream.container.format.name == "avi"


def _spread(
    stream: Stream, timeline: _Timeline, frames: int, limits: Limits
) -> tuple[Pictures | None, str | None]:
    """`frames` pictures at the centres of equal parts of the timeline; or None and why."""
    context: Any = stream.codec_context
    _check_size(context.width, context.height, limits)
    context.thread_count = 1  # as many jobs run as there are cores
    context.options = {"max_pixels": str(limits.max_pixels)}
    first, wanted = timeline.wanted(frames)
    decoder = _Decoder(stream, timeline.packets)
    largest = limits.max_total_pixels // max(1, len(set(wanted)))
    found: dict[float, NDArray[np.uint8]] = {}
    for time in sorted(set(wanted)):
        frame = decoder.at(time)
        if frame is not None:
            _check_size(frame.width, frame.height, limits)
            found[time] = _upright(frame, _rgb(frame, _aspect(stream), largest))
    if not found:
        return None, f"its picture ({context.name}) is damaged: nothing of it could be decoded"
    nearest = [min(found, key=lambda have: abs(have - time)) for time in wanted]
    return Pictures(
        tuple(found[time] for time in nearest), tuple(time - first for time in nearest)
    ), None


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"its pictures are {width} x {height} pixels; at most {limits.max_pixels} are accepted"
        )


def _aspect(stream: Stream) -> float:
    """Width of a pixel over its height."""
    aspect = float(getattr(stream, "sample_aspect_ratio", None) or 1)
    return aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1.0


def _rgb(frame: VideoFrame, aspect: float, largest: int) -> NDArray[np.uint8]:
    """The frame as RGB [h, w, 3] with square pixels, at most `largest` of them."""
    width, height = frame.width * aspect, float(frame.height)
    shrink = min(1.0, (largest / (width * height)) ** 0.5)
    picture = frame.to_ndarray(
        format="rgb24",
        width=max(1, int(width * shrink)),
        height=max(1, int(height * shrink)),
        interpolation="AREA",
        threads=1,
    )
    return np.asarray(picture, np.uint8)


def _upright(frame: VideoFrame, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture turned and mirrored as the frame's display matrix says.

    A pixel (x, y) is shown at (a x + c y, b x + d y); only quarter turns and mirrors are done.
    """
    sides: Any = frame.side_data  # PyAV's annotations know no key but str
    matrix = sides.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return picture
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, 5).tolist()
    if abs(b) > abs(a):
        right, down, picture = c, b, picture.transpose(1, 0, 2)
    else:
        right, down = a, d
    picture = picture[:, ::-1] if right < 0 else picture
    picture = picture[::-1] if down < 0 else picture
    return np.ascontiguousarray(picture)
