"""Sound and frames out of containers (mp4, mov, webm, mkv, avi, flv, …), by PyAV, in memory.

One pass over the packets decodes the sound and notes when each frame is shown. Only then is it
known how long the clip is, whatever its header says, and which frames are wanted; the video
decoder is given the groups of pictures that hold one, and nothing else is converted to RGB.
That is decoding in order where a clip is short and seeking where it is long, without an index.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NoReturn

from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from model.media.audio.track_choice import Tracks
from model.media.bounded_input import BoundedInput
from model.media.headers import ebml
from model.media.headers.encryption import Kind, encrypted_kinds
from model.media.pyav import open_input
from model.media.types import Clip, Limits, TooLarge, UnknownFormat, Unusable
from model.media.video.frames import spread
from model.media.video.timeline import Timeline

#: What may be opened. Left out on purpose: playlists (they name other files and addresses),
#: pictures that stand still (OpenCV reads those), raw streams and everything that no clip comes in.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,ogg,asf,gif,apng,"
    "mp3,wav,w64,aiff,flac,aac,ac3,eac3,amr,amrnb,amrwb,caf,au,tta"
)
#: Bytes by which a damaged file is still known for one of these: (offset, bytes).
_SIGNATURES: tuple[tuple[int, bytes], ...] = (
    *((4, box) for box in (b"ftyp", b"moov", b"mdat", b"moof", b"wide", b"free")),
    *((0, head) for head in (b"\x1a\x45\xdf\xa3", b"RIFF", b"RF64", b"FLV\x01", b"OggS", b"ID3")),
    *((0, head) for head in (b"fLaC", b"GIF8", b"FORM", b"caff", b"#!AMR", b"\x00\x00\x01\xba")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
)

#: More packets than a minute of any honest clip has. Each costs time and memory.
_PACKETS_PER_MINUTE = 60_000
#: Whose headers say how long the clip is; of others FFmpeg guesses by their size.
_WITH_DURATION = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv", "live_flv", "asf", "avi")
_NOUNS: dict[Kind, str] = {"audio": "sound", "video": "picture"}
_SEND_DECRYPTED = "send it without encryption (DRM)"


def read_container(
    data: bytes, frames: int, *, sound: bool, pictures: bool, limits: Limits, accepted: str
) -> Clip:
    """`frames` pictures, evenly spread by time, and the sound, as far as they are asked for.

    Raises UnknownFormat (naming what is `accepted`), Unusable (known, but it cannot be opened)
    and TooLarge.
    """
    encrypted = encrypted_kinds(data)
    with ExitStack() as opened:
        file = BoundedInput(data, limits.max_demux_cpu_s)
        container = opened.enter_context(_opened(file, accepted, is_encrypted=bool(encrypted)))
        audio, no_sound = _readable(container, "audio", encrypted) if sound else ([], None)
        video, no_picture = _chosen(container, encrypted) if pictures else (None, None)
        tracks = _tracks(container, audio, limits) if audio else None
        timed = _timed_sound(container, audio) if video is not None else None
        timeline = Timeline(limits)
        streams = dict.fromkeys(s for s in (*audio, timed, video) if s is not None)
        reading = _Reading(container, list(streams), file, limits)
        for packet in list(reading):  # before any is decoded: they may be too many
            if video is not None and packet.stream_index == video.index:
                timeline.add(packet)
                continue
            if timed is not None and packet.stream_index == timed.index:
                timeline.add_sound(packet)
            if tracks is not None:
                tracks.add(packet)
        heard = seen = None
        if tracks is not None:
            heard, no_sound = tracks.sound()
        if video is not None:
            index = video.index

            def reopened() -> Stream:
                again = BoundedInput(data, limits.max_demux_cpu_s)
                return opened.enter_context(_opened(again, accepted)).streams[index]

            timeline.close(_header_end_s(container, video, data, timeline, reading))
            seen, no_picture = spread(video, reopened, timeline, frames, limits)
        return Clip(heard, seen, no_sound, no_picture)


def _opened(file: BoundedInput, accepted: str, *, is_encrypted: bool = False) -> InputContainer:
    options = {"format_whitelist": _FORMATS}
    if file.data[8:12] != b"AVI ":
        # No frame is decoded only to guess how many are held back for reordering. A wrong guess
        # costs frames at most, which are missed and decoded again; AVI's have no times to miss.
        options["skip_frame"] = "all"
    try:
        with file.measured():
            return open_input(file, options=options, io_open=_refused)
    except (MemoryError, TooLarge):
        raise
    except Exception as error:  # FFmpeg's errors, and builtin ones on some damage
        if is_encrypted:
            raise Unusable(f"the file is encrypted; {_SEND_DECRYPTED}") from error
        if any(file.data.startswith(mark, at) for at, mark in _SIGNATURES):
            raise Unusable("the file is damaged or cut short: it cannot be opened") from error
        raise UnknownFormat(
            f"this is not a kind of file that is read here, whatever its name; send {accepted}"
        ) from error


def _refused(*_: Any, **__: Any) -> NoReturn:
    """A container may name further files; none is opened."""
    raise PermissionError("a clip may not refer to other files")


def _readable(
    container: InputContainer, kind: Kind, encrypted: frozenset[Kind]
) -> tuple[list[Stream], str | None]:
    """The streams of a kind that can be read; or none and why."""
    noun = _NOUNS[kind]
    streams = [stream for stream in container.streams if stream.type == kind]
    if kind in encrypted and (streams or not container.streams):
        return [], f"its {noun} is encrypted; {_SEND_DECRYPTED}"
    if not streams:
        return [], f"there is no {noun} in it"
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        return [], f"its {noun} is in a codec that is not read here"
    streams = [s for s in streams if not s.disposition & Disposition.attached_pic]
    if not streams:
        return [], "its only picture is cover art"
    return streams, None


def _chosen(
    container: InputContainer, encrypted: frozenset[Kind]
) -> tuple[Stream | None, str | None]:
    """The video stream to read, the default one if several are there; or None and why.

    Of AVIF's film and the still that stands for it, both default, the film.
    """
    streams, no_picture = _readable(container, "video", encrypted)
    return (max(streams, key=_standing), None) if streams else (None, no_picture)


def _standing(stream: Stream) -> tuple[bool, bool]:
    return _is_default(stream), stream.frames != 1


def _is_default(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.default)


def _tracks(container: InputContainer, streams: list[Stream], limits: Limits) -> Tracks:
    """The sound tracks, default ones first."""
    indices = [stream.index for stream in container.streams if stream.type == "audio"]
    preferred = sorted(streams, key=lambda stream: not _is_default(stream))
    return Tracks(preferred, indices, limits)


def _timed_sound(container: InputContainer, audio: list[Stream]) -> Stream | None:
    """The sound whose time stamps go with the video's, also where no sound is asked for."""
    sounds = audio or [stream for stream in container.streams if stream.type == "audio"]
    return max(sounds, key=_standing, default=None)


class _Reading:
    """The streams' packets, up to the end or to where the file is damaged.

    `is_whole`: whether that was the end, once all are read.
    """

    def __init__(
        self, container: InputContainer, streams: list[Stream], file: BoundedInput, limits: Limits
    ) -> None:
        self._container = container
        self._streams = streams
        self._file = file
        self._limits = limits
        self.is_whole = True

    def __iter__(self) -> Iterator[Packet[Any]]:
        """Raises TooLarge where they are too many or too long, or take too much time to find."""
        if not self._streams:
            return
        packets = self._container.demux(self._streams)
        left = len(self._file.data) + self._limits.max_inflated_bytes
        most = self._limits.in_all(_PACKETS_PER_MINUTE)
        for _ in range(most):
            try:
                self._file.begin()
                packet = next(packets, None)
                self._file.end()
            except (MemoryError, TooLarge):
                raise
            except Exception:  # what came before the damage counts
                self._file.end()
                self.is_whole = False
                return
            if packet is None:
                return
            left -= packet.size
            if left < 0:  # Matroska's packets may be compressed
                raise TooLarge(
                    "its packets inflate to more than the file and "
                    f"{self._limits.max_inflated_bytes} bytes (max_inflated_bytes)"
                )
            if packet.size:
                self.is_whole = not packet.is_corrupt
                yield packet
        raise TooLarge(
            f"the file has more than {most} packets, which is more than any clip of "
            f"{self._limits.max_duration_s:g} s has"
        )


def _header_end_s(
    container: InputContainer, video: Stream, data: bytes, timeline: Timeline, reading: _Reading
) -> float | None:
    """When the clip ends by its header (s); None where none says so, or the file is cut short."""
    if container.format.name not in _WITH_DURATION or container.duration is None:
        return None
    is_cut = not reading.is_whole or len(timeline.packets) < video.frames or ebml.is_cut(data)
    return None if is_cut else container.duration / 1_000_000
