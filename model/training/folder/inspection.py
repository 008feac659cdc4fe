"""Check a decoded clip: streams that are missing, silent, of one colour, or too short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from model.media.audio.downmix import downmix
from model.media.blank import blank_reason, silence_reason
from model.media.types import Clip, MediaError, Sound
from model.training.folder.clip_files import ClipFiles
from model.training.folder.findings import Finding

#: Shortest sound, in seconds, that can be distinguished from a click.
MIN_SOUND_S = 0.1
#: Shortest movie, in seconds of its pictures. A movie of one frame is a photograph, or was cut off.
MIN_MOVIE_S = 0.2
#: Sounds up to this length, in seconds, may be mostly the padding of their codec, whose blocks last
#: 0.02 to 0.13 s. They are measured from the first to the last sample of HEARD times the peak; what
#: a codec adds before and after is below that.
MAX_PADDED_S, HEARD = 0.5, 0.03
#: Least share of a row's part, from `start` to `end`, that its file has sound for: `end` may be
#: rounded up, but not be in milliseconds.
MIN_SHARE = 0.5


def unreadable(files: ClipFiles, error: MediaError | OSError) -> Finding:
    """Return the finding of a clip that could not be decoded."""
    if isinstance(error, OSError):
        return Finding("unreadable", files.name, error.strerror or str(error))
    if "is empty" in error.detail:
        return Finding("empty", files.name, f"{error.detail}; record it again, or remove it")
    return Finding("unreadable", files.name, error.detail)


def inspect(files: ClipFiles, clip: Clip, streams: frozenset[str]) -> Iterator[Finding]:
    """Yield what is wrong with a clip for a network of these streams."""
    if "audio" in streams:
        yield from _inspect_sound(files, clip, streams)
    if "visual" in streams:
        if clip.pictures is None:
            problem = clip.pictures_problem or "there is no picture in it"
            message = f"{problem}; add a picture of the same name{_alone('audio', streams)}"
            yield Finding("stream missing", files.name, message)
        elif reason := blank_reason(clip.pictures):
            yield Finding("one colour", files.name, f"{reason}; it needs something to see")
        elif (seconds := clip.pictures.duration_s) is not None and seconds < MIN_MOVIE_S - 1e-3:
            message = f"its pictures last {seconds:.3f} s; {MIN_MOVIE_S:g} s are needed"
            hint = "start and end are seconds" if files.span else "a photograph belongs in a .jpg"
            yield Finding("too short", files.name, f"{message}; {hint}")


def _inspect_sound(files: ClipFiles, clip: Clip, streams: frozenset[str]) -> Iterator[Finding]:
    if clip.sound is None:
        problem = clip.sound_problem or "there is no sound in it"
        message = f"{problem}; add a sound file of the same name{_alone('visual', streams)}"
        yield Finding("stream missing", files.name, message)
    elif reason := silence_reason(clip.sound):
        message = f"{reason}{_alone('visual', streams)}"
        yield Finding("silent", files.name, message)
    elif (seconds := _heard_s(clip.sound)) < MIN_SOUND_S:
        message = f"its sound lasts {seconds:.3f} s; {MIN_SOUND_S:g} s are needed"
        yield Finding("too short", files.name, message)
    elif files.span is not None:
        seconds = files.span[1] - files.span[0]
        if clip.sound.duration_s < MIN_SHARE * seconds:
            message = f"only {clip.sound.duration_s:.2f} s of its {seconds:g} s are in the file"
            yield Finding("too short", files.name, f"{message}; start and end are seconds")


def _heard_s(sound: Sound) -> float:
    """Return how long something is heard (s): of a short sound, without silence at its ends."""
    if sound.duration_s > MAX_PADDED_S:
        return sound.duration_s
    level = np.abs(downmix(sound)[0])
    loud = np.flatnonzero(level >= HEARD * level.max())
    return float((loud[-1] - loud[0] + 1) / sound.sample_rate)


def _alone(stream: str, streams: frozenset[str]) -> str:
    """Return the hint to train on one stream alone, where there are two."""
    return f", or train on one stream: --task {stream}" if len(streams) > 1 else ""


def duplicates(digests: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a finding for each clip whose content another has, but the first.

    `digests` and `labels` are by the clip's name.
    """
    first: dict[str, str] = {}
    for name, digest in digests.items():
        original = first.setdefault(digest, name)
        if original == name:
            continue
        message = f"has the same content as {original}"
        if labels[original] != labels[name]:
            message += f", which is of class {labels[original]}: one of them is wrong"
        yield Finding("duplicate", name, f"{message}; keep one of them")
