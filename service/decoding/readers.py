"""Read the files of each upload field: the readers that service.classification.upload_fields names.

They run in a sandboxed process, so they must not open files or import modules when called.
A reader for a new kind of stream may have a module of its own, together with its `Source`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from model.media import reader
from model.media.picture.picture_file import shrink
from model.media.types import Limits, MediaError, Pictures, UnknownFormat, Unusable
from model.preprocess.frames import segment_centres
from service.decoding.sources import Missing, PicturesSource, SoundSource, Source


@dataclass(frozen=True)
class ReadOptions:
    """The request to a reader for the files of a field: streams of these `kinds`, and `frames`
    pictures at the centres of as many equal parts of the duration."""

    kinds: frozenset[str]
    frames: int
    limits: Limits


class Reader(Protocol):
    """Reads the files of one field.

    Returns for each of `options.kinds` a Source, or Missing with the reason. Raises MediaError
    where a file cannot be used, with a detail for the client.
    """

    def __call__(
        self, files: Sequence[bytes], options: ReadOptions
    ) -> Mapping[str, Source | Missing]: ...


def read_clip(files: Sequence[bytes], options: ReadOptions) -> dict[str, Source | Missing]:
    """Read a file with sound and picture."""
    clip = reader.read_clip(
        files[0],
        options.frames,
        sound="spectrogram" in options.kinds,
        pictures="frames" in options.kinds,
        limits=options.limits,
    )
    sources: dict[str, Source | Missing] = {}
    sources["spectrogram"] = (
        SoundSource(clip.sound)
        if clip.sound is not None
        else Missing(clip.sound_problem or "the clip has no sound")
    )
    sources["frames"] = (
        PicturesSource(clip.pictures)
        if clip.pictures is not None
        else Missing(clip.pictures_problem or "the clip has no pictures")
    )
    return sources


def read_video(files: Sequence[bytes], options: ReadOptions) -> dict[str, Source | Missing]:
    """Read the pictures of a video."""
    video = reader.read_clip(files[0], options.frames, sound=False, limits=options.limits)
    if video.pictures is None:
        raise Unusable(video.pictures_problem or "it has no pictures")
    return {"frames": PicturesSource(video.pictures)}


def read_audio(files: Sequence[bytes], options: ReadOptions) -> dict[str, Source | Missing]:
    """Read the sound of a sound file or of a video."""
    return {"spectrogram": SoundSource(reader.read_sound(files[0], limits=options.limits))}


def read_frames(files: Sequence[bytes], options: ReadOptions) -> dict[str, Source | Missing]:
    """Read every picture, so that a damaged one is reported, and return those that are needed."""
    count = len(files)
    needed = set(segment_centres(count, options.frames))
    largest = options.limits.max_total_pixels // len(needed)
    pictures = {}
    for index, data in enumerate(files):
        try:
            picture = reader.read_picture(data, limits=options.limits)
        except MediaError as exc:
            raise exc.within(f"picture {index + 1} of {count}", index) from exc
        if index in needed:
            pictures[index] = shrink(picture, largest)
    times_s = tuple(float(index) for index in pictures)
    return {"frames": PicturesSource(Pictures(tuple(pictures.values()), times_s))}


def read_pictures(files: Sequence[bytes], options: ReadOptions) -> dict[str, Source | Missing]:
    """Read several pictures, or a single picture or video."""
    if len(files) == 1:
        try:
            return read_video(files, options)
        except UnknownFormat:
            pass  # a picture of a format that is no clip's
        try:
            return read_frames(files, options)
        except UnknownFormat:
            raise UnknownFormat("it is neither a video nor a picture of a known format") from None
    return read_frames(files, options)
