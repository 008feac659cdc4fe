"""Sound files and containers: which reader decodes the sound depends on the bytes alone.

So every form field gets the same samples of the same file. Two readers know sound: soundfile and
PyAV. Where the first one fails on a part of a file, the second is tried, and what reaches
further is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.media.audio.sound_file import read_sound_file
from model.media.audio.track import joined
from model.media.container import read_container
from model.media.headers import ogg
from model.media.headers.header_counts import check_counts
from model.media.headers.id3 import without_leading_tags
from model.media.headers.mp4_tables import check_tables
from model.media.types import Clip, Limits, MediaError, Sound, TooLarge, UnknownFormat, Unusable

#: How sound files begin that may have a film, cover art or more tracks beside the sound: Ogg, FLAC
#: and MP3. PyAV reads them first, and soundfile all others: it knows more kinds, and better.
_MAY_HAVE_PICTURES = (b"OggS", b"fLaC", b"ID3", b"\xff")
_NO_PICTURE = "there is no picture in it"


@dataclass(frozen=True)
class Asked:
    """What to read: sound, and `frames` pictures or 0.

    `accepted` are the kinds of files that are named where it is none of them.
    """

    sound: bool
    frames: int
    limits: Limits
    accepted: str


def read_recording(data: bytes, asked: Asked) -> Clip:
    """The sound and the pictures of a sound file or a container.

    Raises UnknownFormat, Unusable (damaged, NaN) and TooLarge.
    """
    data = without_leading_tags(data)
    links = ogg.links(data)
    check_counts(data, asked.limits)
    check_tables(data, asked.limits)
    if len(links) > 1:
        return _read_links(data, links, asked)
    if data.startswith(_MAY_HAVE_PICTURES) and not ogg.is_one_sound(data):
        return _read_container_first(data, asked)
    sound = read_sound_file(data, asked.limits)
    if sound is None:
        return _read_container(data, asked)
    if not sound.complete and asked.sound:
        sound = _longer(sound, _container_sound(data, asked))
    return Clip(sound if asked.sound else None, None, None, _no_picture(asked))


def _read_container_first(data: bytes, asked: Asked) -> Clip:
    """By PyAV, and the sound by soundfile as well where PyAV did not get all of it."""
    try:
        clip = _read_container(data, asked)
    except (UnknownFormat, Unusable):
        sound = read_sound_file(data, asked.limits) if asked.sound else None
        if sound is None:
            raise
        return Clip(sound, None, None, _no_picture(asked))
    if not asked.sound or (clip.sound is not None and clip.sound.complete):
        return clip
    sound = _longer(clip.sound, _file_sound(data, asked))
    problem = clip.sound_problem if sound is None else None
    return Clip(sound, clip.pictures, problem, clip.pictures_problem)


def _read_links(data: bytes, links: Sequence[bytes], asked: Asked) -> Clip:
    """An Ogg file of several: their sounds one after the other.

    FFmpeg reads such a file to its end only where no rate and no channels change.
    """
    sound, no_sound = _links_sound(links, asked) if asked.sound else (None, None)
    if not asked.frames or not ogg.has_pictures(data):
        return Clip(sound, None, no_sound, _no_picture(asked))
    clip = _read_container(data, Asked(False, asked.frames, asked.limits, asked.accepted))
    return Clip(sound, clip.pictures, no_sound, clip.pictures_problem)


def _links_sound(links: Sequence[bytes], asked: Asked) -> tuple[Sound | None, str | None]:
    """The sound of all links, without those that are damaged; or None and why."""
    parts: list[Sound] = []
    problem = None
    for link in links:
        try:
            clip = read_recording(link, _sound_of(asked))
        except TooLarge:
            raise
        except MediaError as error:
            problem = problem or error.detail
            continue
        if clip.sound is not None:
            parts.append(clip.sound)
        else:
            problem = problem or clip.sound_problem
    if not parts:
        return None, problem
    complete = problem is None and all(part.complete for part in parts)
    return joined(parts, asked.limits, complete=complete), None


def _read_container(data: bytes, asked: Asked) -> Clip:
    return read_container(
        data,
        asked.frames or 1,
        sound=asked.sound,
        pictures=asked.frames > 0,
        limits=asked.limits,
        accepted=asked.accepted,
    )


def _container_sound(data: bytes, asked: Asked) -> Sound | None:
    try:
        return _read_container(data, _sound_of(asked)).sound
    except MediaError:  # what the first reader got counts
        return None


def _file_sound(data: bytes, asked: Asked) -> Sound | None:
    try:
        return read_sound_file(data, asked.limits)
    except MediaError:  # what the first reader got counts
        return None


def _sound_of(asked: Asked) -> Asked:
    return Asked(True, 0, asked.limits, asked.accepted)


def _longer(first: Sound | None, second: Sound | None) -> Sound | None:
    """What reaches further; the first where both do."""
    if first is None or second is None:
        return first or second
    return second if second.duration_s > first.duration_s else first


def _no_picture(asked: Asked) -> str | None:
    return _NO_PICTURE if asked.frames else None
