"""Decode the sound and frames of containers (mp4, mov, webm, mkv, avi, flv, …) by PyAV.

One pass over the packets decodes the sound and records when each frame is shown. Only then are the
clip's real duration and the selected frames known, whatever its header says. The video decoder
then gets the groups of pictures that contain a selected frame, and only selected frames are
converted to RGB. This decodes short clips in order and seeks in long ones, without an index.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NoReturn

from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from model.media.audio.track_selection import TrackSelector
from model.media.bounded_input import BoundedInput
from model.media.headers import ebml
from model.media.headers.encryption import StreamKind, encrypted_kinds
from model.media.pyav import open_input
from model.media.types import Clip, Limits, TooLarge, UnknownFormat, Unusable
from model.media.video.frames import read_frames
from model.media.video.timeline import Timeline

#: FFmpeg's demuxers that may be used. Not among them: playlists (they refer to other files and
#: URLs), still pictures (OpenCV decodes those), raw streams and formats that clips do not have.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,ogg,asf,gif,apng,"
    "mp3,wav,w64,aiff,flac,aac,ac3,eac3,amr,amrnb,amrwb,caf,au,tta"
)
#: Signatures by which a damaged file is still recognised: (offset, bytes).
_SIGNATURES: tuple[tuple[int, bytes], ...] = (
    *((4, box) for box in (b"ftyp", b"moov", b"mdat", b"moof", b"wide", b"free")),
    *((0, head) for head in (b"\x1a\x45\xdf\xa3", b"RIFF", b"RF64", b"FLV\x01", b"OggS", b"ID3")),
    *((0, head) for head in (b"fLaC", b"GIF8", b"FORM", b"caff", b"#!AMR", b"\x00\x00\x01\xba")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
)

#: Largest number of packets per minute. Ordinary clips have far fewer.
_PACKETS_PER_MINUTE = 60_000
#: Formats whose header has the duration. For others FFmpeg estimates it from the file size.
_WITH_DURATION = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv", "live_flv", "asf", "avi")
_NOUNS: dict[StreamKind, str] = {"audio": "sound", "video": "picture"}
_SEND_DECRYPTED = "send it without encryption (DRM)"


def read_container(
    data: bytes,
    frames: int,
    *,
    sound: bool,
    pictures: bool,
    limits: Limits,
    accepted: str,
    span: tuple[float, float] | None = None,
) -> Clip:
    """Decode the sound (if `sound`) and `frames` evenly spaced pictures (if `pictures`).

    The pictures are those of `span` = (start, end) in seconds, or of the whole.

    Raises UnknownFormat (its message lists the `accepted` formats), Unusable (a known format that
    cannot be opened) and TooLarge.
    """
    encrypted = encrypted_kinds(data)
    with ExitStack() as stack:
        file = BoundedInput(data, limits.max_demux_cpu_s)
        container = stack.enter_context(_open(file, accepted, is_encrypted=bool(encrypted)))
        audio, no_sound = _usable_streams(container, "audio", encrypted) if sound else ([], None)
        video, no_picture = _select_video(container, encrypted) if pictures else (None, None)
        tracks = _select_tracks(container, audio, limits) if audio else None
        timing_audio = _timing_audio(container, audio) if video is not None else None
        timeline = Timeline(limits, span)
        streams = dict.fromkeys(s for s in (*audio, timing_audio, video) if s is not None)
        reader = _PacketReader(container, list(streams), file, limits)
        for packet in reader.read():  # check their number before any is decoded
            if video is not None and packet.stream_index == video.index:
                timeline.add(packet)
                continue
            if timing_audio is not None and packet.stream_index == timing_audio.index:
                timeline.add_sound(packet)
            if tracks is not None:
                tracks.add(packet)
        decoded_sound = decoded_pictures = None
        if tracks is not None:
            decoded_sound, no_sound = tracks.sound()
        if video is not None:
            index = video.index

            def reopen() -> Stream:
                file = BoundedInput(data, limits.max_demux_cpu_s)
                return stack.enter_context(_open(file, accepted)).streams[index]

            timeline.close(_header_end_s(container, video, data, timeline, reader))
            decoded_pictures, no_picture = read_frames(video, reopen, timeline, frames, limits)
        return Clip(decoded_sound, decoded_pictures, no_sound, no_picture)


def _open(file: BoundedInput, accepted: str, *, is_encrypted: bool = False) -> InputContainer:
    options = {"format_whitelist": _FORMATS}
    if file.data[8:12] != b"AVI ":
        # Do not decode frames to estimate the reordering delay. A wrong estimate only costs frames
        # that are missed and decoded again. AVI has no time stamps by which they would be missed.
        options["skip_frame"] = "all"
    try:
        with file.measure():
            return open_input(file, options=options, io_open=_refuse_io)
    except (MemoryError, TooLarge):
        raise
    except Exception as error:  # FFmpeg's errors, and builtin ones for some damaged files
        if is_encrypted:
            raise Unusable(f"the file is encrypted; {_SEND_DECRYPTED}") from error
        if any(file.data.startswith(signature, offset) for offset, signature in _SIGNATURES):
            raise Unusable("the file is damaged or truncated: it cannot be opened") from error
        raise UnknownFormat(
            f"this file format is not supported (the content counts, not the name); send {accepted}"
        ) from error


def _refuse_io(*_: Any, **__: Any) -> NoReturn:
    """Refuse to open further files that a container refers to."""
    raise PermissionError("a clip may not refer to other files")


def _usable_streams(
    container: InputContainer, kind: StreamKind, encrypted: frozenset[StreamKind]
) -> tuple[list[Stream], str | None]:
    """Return the streams of a kind that can be decoded; or none and the problem."""
    noun = _NOUNS[kind]
    streams = [stream for stream in container.streams if stream.type == kind]
    if kind in encrypted and (streams or not container.streams):
        return [], f"its {noun} is encrypted; {_SEND_DECRYPTED}"
    if not streams:
        return [], f"there is no {noun} in it"
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        return [], f"the codec of its {noun} is not supported"
    streams = [s for s in streams if not s.disposition & Disposition.attached_pic]
    if not streams:
        return [], "its only picture is cover art"
    return streams, None


def _select_video(
    container: InputContainer, encrypted: frozenset[StreamKind]
) -> tuple[Stream | None, str | None]:
    """Return the video stream to decode; or None and the problem.

    Prefer the default stream, and then one with more than one frame: an AVIF image sequence and
    its still picture are both default.
    """
    streams, problem = _usable_streams(container, "video", encrypted)
    return (max(streams, key=_preference), None) if streams else (None, problem)


def _preference(stream: Stream) -> tuple[bool, bool]:
    return _is_default(stream), stream.frames != 1


def _is_default(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.default)


def _select_tracks(
    container: InputContainer, streams: list[Stream], limits: Limits
) -> TrackSelector:
    """Return a selector of the audio tracks, default ones first."""
    indices = [stream.index for stream in container.streams if stream.type == "audio"]
    preferred = sorted(streams, key=lambda stream: not _is_default(stream))
    return TrackSelector(preferred, indices, limits)


def _timing_audio(container: InputContainer, audio: list[Stream]) -> Stream | None:
    """Return the audio stream whose time stamps belong to the video's, even if not decoded."""
    streams = audio or [stream for stream in container.streams if stream.type == "audio"]
    return max(streams, key=_preference, default=None)


class _PacketReader:
    """Read the packets of streams, up to the end or to damage.

    `is_complete`: after reading, whether it reached the end of the file without damage.
    """

    def __init__(
        self, container: InputContainer, streams: list[Stream], file: BoundedInput, limits: Limits
    ) -> None:
        self._container = container
        self._streams = streams
        self._file = file
        self._limits = limits
        self.is_complete = True

    def read(self) -> list[Packet[Any]]:
        """Raise TooLarge if there are too many packets or bytes, or demuxing takes too long."""
        if not self._streams:
            return []
        with self._file.measure():
            return list(self._packets())

    def _packets(self) -> Iterator[Packet[Any]]:
        packets = self._container.demux(self._streams)
        remaining_bytes = len(self._file.data) + self._limits.max_inflated_bytes
        max_packets = self._limits.scale_to_duration(_PACKETS_PER_MINUTE)
        for _ in range(max_packets):
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except Exception:  # packets before the damage count
                self.is_complete = False
                return
            if packet is None:
                return
            size = packet.size
            remaining_bytes -= size
            if remaining_bytes < 0:  # Matroska's packets may be compressed
                raise TooLarge(
                    "its packets are too large when inflated; at most the size of the file and "
                    f"{self._limits.max_inflated_bytes} bytes are accepted",
                    limit="max_inflated_bytes",
                )
            if size:
                self.is_complete = not packet.is_corrupt
                yield packet
        raise TooLarge(
            f"the file has too many packets; at most {max_packets} are accepted for "
            f"{self._limits.max_duration_s:g} s",
            limit="max_duration_s",
        )


def _header_end_s(
    container: InputContainer, video: Stream, data: bytes, timeline: Timeline, reader: _PacketReader
) -> float | None:
    """Return the clip's end (s) by its header; None if it has none or the file is truncated."""
    if container.format.name not in _WITH_DURATION or container.duration is None:
        return None
    is_truncated = (
        not reader.is_complete or len(timeline.packets) < video.frames or ebml.is_truncated(data)
    )
    return None if is_truncated else container.duration / 1_000_000
