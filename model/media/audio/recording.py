"""Read sound files and containers, whose sound soundfile or PyAV decodes.

The choice depends on the bytes alone, so that every form field gets the same samples of a file.
Where the first library fails on a part of a file, the second is tried, and the longer sound is
returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.media.audio.sound_file import read_sound_file
from model.media.audio.track import concatenate
from model.media.container import read_container
from model.media.headers import ogg
from model.media.headers.header_counts import check_header_counts
from model.media.headers.id3 import strip_leading_tags
from model.media.headers.mp4_tables import check_tables
from model.media.types import Clip, Limits, MediaError, Sound, TooLarge, UnknownFormat, Unusable

#: Signatures of sound formats whose files may also have video, cover art or several tracks: Ogg,
#: FLAC and MP3. PyAV reads these first. soundfile reads all others first: it supports more sound
#: formats.
_MAY_HAVE_PICTURES = (b"OggS", b"fLaC", b"ID3", b"\xff")
#: Signatures of containers that soundfile does not read: (offset, bytes).
_NEVER_SOUND_FILES = ((0, b"\x1a\x45\xdf\xa3"), (4, b"ftyp"))
_NO_PICTURE = "there is no picture in it"


@dataclass(frozen=True)
class ReadRequest:
    """What to read from a file: its sound (if `sound`), and `frames` pictures (0 for none).

    `accepted` lists the accepted formats, for the message of UnknownFormat. The pictures are
    those of `span` = (start, end) in seconds, or of the whole.
    """

    sound: bool
    frames: int
    limits: Limits
    accepted: str
    span: tuple[float, float] | None = None

    @property
    def sound_only(self) -> ReadRequest:
        """The same without pictures."""
        return replace(self, sound=True, frames=0)


def read_recording(data: bytes, request: ReadRequest) -> Clip:
    """Read the sound and the pictures of a sound file or a container.

    Raises UnknownFormat, Unusable (damaged, NaN) and TooLarge.
    """
    data = strip_leading_tags(data)
    links = ogg.split_links(data)
    check_header_counts(data, request.limits)
    check_tables(data, request.limits)
    if len(links) > 1:
        return _read_chained_ogg(data, links, request)
    if data.startswith(_MAY_HAVE_PICTURES) and not ogg.is_one_sound(data):
        return _read_container_first(data, request)
    is_container = any(data.startswith(signature, at) for at, signature in _NEVER_SOUND_FILES)
    sound = None if is_container else read_sound_file(data, request.limits)
    if sound is None:
        return _read_container(data, request)
    if not sound.complete and request.sound:
        sound = _longer(sound, _container_sound(data, request))
    return Clip(sound if request.sound else None, None, None, _no_picture(request))


def _read_container_first(data: bytes, request: ReadRequest) -> Clip:
    """Read by PyAV, and the sound by soundfile as well if PyAV did not decode all of it."""
    try:
        clip = _read_container(data, request)
    except (UnknownFormat, Unusable):
        sound = read_sound_file(data, request.limits) if request.sound else None
        if sound is None:
            raise
        return Clip(sound, None, None, _no_picture(request))
    if not request.sound or (clip.sound is not None and clip.sound.complete):
        return clip
    sound = _longer(clip.sound, _file_sound(data, request))
    problem = clip.sound_problem if sound is None else None
    return Clip(sound, clip.pictures, problem, clip.pictures_problem)


def _read_chained_ogg(data: bytes, links: Sequence[bytes], request: ReadRequest) -> Clip:
    """Read a chained Ogg file: concatenate the sounds of its links.

    FFmpeg reads such a file to its end only if sample rate and channels do not change.
    """
    sound, sound_problem = _links_sound(links, request) if request.sound else (None, None)
    if not request.frames or not ogg.has_pictures(data):
        return Clip(sound, None, sound_problem, _no_picture(request))
    clip = _read_container(data, replace(request, sound=False))
    return Clip(sound, clip.pictures, sound_problem, clip.pictures_problem)


def _links_sound(links: Sequence[bytes], request: ReadRequest) -> tuple[Sound | None, str | None]:
    """Return the sound of all links that are not damaged; or None and the problem."""
    sounds: list[Sound] = []
    problem = None
    for link in links:
        try:
            clip = read_recording(link, request.sound_only)
        except TooLarge:
            raise
        except MediaError as error:
            problem = problem or error.detail
            continue
        if clip.sound is not None:
            sounds.append(clip.sound)
        else:
            problem = problem or clip.sound_problem
    if not sounds:
        return None, problem
    complete = problem is None and all(sound.complete for sound in sounds)
    return concatenate(sounds, request.limits, complete=complete), None


def _read_container(data: bytes, request: ReadRequest) -> Clip:
    return read_container(
        data,
        request.frames or 1,
        sound=request.sound,
        pictures=request.frames > 0,
        limits=request.limits,
        accepted=request.accepted,
        span=request.span,
    )


def _container_sound(data: bytes, request: ReadRequest) -> Sound | None:
    try:
        return _read_container(data, request.sound_only).sound
    except MediaError:  # the sound that soundfile decoded counts
        return None


def _file_sound(data: bytes, request: ReadRequest) -> Sound | None:
    try:
        return read_sound_file(data, request.limits)
    except MediaError:  # the clip that PyAV decoded counts
        return None


def _longer(first: Sound | None, second: Sound | None) -> Sound | None:
    """Return the longer sound; the first if they are equally long."""
    if first is None or second is None:
        return first or second
    return second if second.duration_s > first.duration_s else first


def _no_picture(request: ReadRequest) -> str | None:
    return _NO_PICTURE if request.frames else None
