"""One request's files to the streams that a checkpoint takes.

What a decoding process runs, so nothing here imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from model.media import reader
from model.media.audio.downmix import DownmixMethod, to_mono
from model.media.blank import blank_reason, silence_reason
from model.media.picture.picture_file import shrunk
from model.media.reader import Limits, MediaError, Pictures, Sound
from model.preprocess.frames import segment_centres
from model.preprocess.prepare import prepare
from service.classification.inputs import InputFiles
from service.decoding.job import DecodeRequest, DecodeResult, StreamInfo
from service.errors import Error, Problem


@dataclass(frozen=True)
class _Parts:
    """Sound and pictures of one request, with the field that each came in.

    `missing`: kinds of streams that there is nothing for, each with the field to blame and why.
    """

    sound: Sound | None = None
    pictures: Pictures | None = None
    sound_field: str = "audio"
    pictures_field: str = "video"
    missing: dict[str, tuple[str, str]] = field(default_factory=dict)


def decode(files: InputFiles, wanted: DecodeRequest) -> DecodeResult:
    """Decode and preprocess `files`.

    Raises Problem: UNKNOWN_FORMAT, UNUSABLE, TOO_LARGE or INVALID_FIELD, naming the field.
    """
    kinds: set[str] = {spec.kind for spec in wanted.streams.values()}
    _refuse_unused(files, kinds, wanted)

    started = time.perf_counter()
    parts = _read(files, kinds, _frames_needed(wanted), wanted.limits)
    if wanted.missing_streams:
        parts = _without_empty(parts)
    _require(parts, kinds, wanted)
    read = time.perf_counter()

    sound, mixed = to_mono(parts.sound) if parts.sound is not None else (None, None)
    prepared = prepare(
        wanted.streams,
        None if "spectrogram" in parts.missing else sound,
        None if "frames" in parts.missing else parts.pictures,
        wanted.steps,
    )
    streams = {name: _info(parts, spec.kind, mixed) for name, spec in wanted.streams.items()}
    return DecodeResult(prepared, streams, read - started, time.perf_counter() - read)


def _refuse_unused(files: InputFiles, kinds: set[str], wanted: DecodeRequest) -> None:
    """A file that this checkpoint has no stream for is a mistake worth telling."""
    unused = [
        name
        for name, data, kind in (
            ("audio", files.audio, "spectrogram"),
            ("video", files.video, "frames"),
            ("frames", files.frames, "frames"),
        )
        if data and kind not in kinds
    ]
    if unused:
        takes = ", ".join(wanted.streams)
        detail = f"The checkpoint {wanted.name} does not take `{unused[0]}`; its streams: {takes}."
        raise Problem(Error.INVALID_FIELD, detail, field=unused[0])


def _frames_needed(wanted: DecodeRequest) -> int:
    """How many pictures to take from a video: one for each step where they are spread."""
    spread = any(s.kind == "frames" and s.frames == "spread" for s in wanted.streams.values())
    return wanted.steps if spread else 1


def _read(files: InputFiles, kinds: set[str], frames: int, limits: Limits) -> _Parts:
    if files.clip is not None:
        return _read_clip(files.clip, kinds, frames, limits)

    missing: dict[str, tuple[str, str]] = {}
    sound, pictures = None, None
    if files.audio is not None:
        with _blaming("audio"):
            sound = reader.read_sound(files.audio, limits=limits)
    else:
        missing["spectrogram"] = ("audio", "no `audio` was sent")

    if files.video is not None:
        with _blaming("video"):
            video = reader.read_clip(files.video, frames, sound=False, limits=limits)
        if video.pictures is None:
            raise Problem(Error.UNUSABLE, f"`video`: {video.pictures_problem}", field="video")
        pictures = video.pictures
    elif files.frames:
        pictures = _read_frames(files.frames, frames, limits)
    else:
        missing["frames"] = ("video", "no `video` and no `frames` were sent")
    return _Parts(
        sound, pictures, pictures_field="frames" if files.frames else "video", missing=missing
    )


def _read_clip(data: bytes, kinds: set[str], frames: int, limits: Limits) -> _Parts:
    with _blaming("clip"):
        clip = reader.read_clip(
            data,
            frames,
            sound="spectrogram" in kinds,
            pictures="frames" in kinds,
            limits=limits,
        )
    missing = {}
    if clip.sound is None:
        missing["spectrogram"] = ("clip", clip.sound_problem or "the clip has no sound")
    if clip.pictures is None:
        missing["frames"] = ("clip", clip.pictures_problem or "the clip has no pictures")
    return _Parts(clip.sound, clip.pictures, "clip", "clip", missing)


def _without_empty(parts: _Parts) -> _Parts:
    """The parts, with streams that carry nothing first among the missing ones."""
    missing: dict[str, tuple[str, str]] = {}
    if parts.sound is not None and (reason := silence_reason(parts.sound)):
        missing["spectrogram"] = (parts.sound_field, reason)
    if parts.pictures is not None and (reason := blank_reason(parts.pictures)):
        missing["frames"] = (parts.pictures_field, reason)
    return replace(parts, missing=missing | parts.missing)


def _read_frames(datas: tuple[bytes, ...], frames: int, limits: Limits) -> Pictures:
    """Read every picture, so that a bad one is told of, and keep those that are needed."""
    count = len(datas)
    needed = set(segment_centres(count, frames))
    largest = limits.max_total_pixels // len(needed)
    kept = {}
    for index, data in enumerate(datas):
        with _blaming("frames", f"picture {index + 1} of {count}: "):
            picture = reader.read_picture(data, limits=limits)
        if index in needed:
            kept[index] = shrunk(picture, largest)
    return Pictures(tuple(kept.values()), tuple(float(index) for index in kept))


def _require(parts: _Parts, kinds: set[str], wanted: DecodeRequest) -> None:
    """Raise where the checkpoint cannot do without what is missing."""
    missing = {kind: why for kind, why in parts.missing.items() if kind in kinds}
    if not missing:
        return
    blamed, reasons = next(iter(missing.values()))[0], "; ".join(why for _, why in missing.values())
    if len(missing) == len(kinds):
        raise Problem(Error.UNUSABLE, f"There is nothing to classify: {reasons}.", field=blamed)
    if not wanted.missing_streams:
        streams = " and ".join(wanted.streams)
        detail = f"The checkpoint {wanted.name} needs {streams}, and {reasons}."
        raise Problem(Error.UNUSABLE, detail, field=blamed)


def _info(parts: _Parts, kind: str, mixed: DownmixMethod | None) -> StreamInfo:
    """What there is for a stream of this kind, used or not."""
    reason = parts.missing[kind][1] if kind in parts.missing else None
    info = StreamInfo(used=reason is None, reason=reason)
    if kind == "spectrogram" and parts.sound is not None:
        return _sound_info(info, parts.sound, mixed)
    if kind == "frames" and parts.pictures is not None:
        height, width = parts.pictures.frames[0].shape[:2]
        return replace(info, frames=len(parts.pictures.frames), width=width, height=height)
    return info


def _sound_info(info: StreamInfo, sound: Sound, mixed: DownmixMethod | None) -> StreamInfo:
    several = sound.tracks > 1
    return replace(
        info,
        duration_s=round(sound.duration_s, 3),
        sample_rate=sound.sample_rate,
        channels=len(sound.samples),
        mixed=mixed if info.used and len(sound.samples) > 1 else None,
        track=sound.track if several else None,
        tracks=sound.tracks if several else None,
    )


@contextmanager
def _blaming(name: str, prefix: str = "") -> Iterator[None]:
    """Turn what is wrong with a file into the problem that names its field."""
    try:
        yield
    except MediaError as exc:
        errors = {reader.UnknownFormat: Error.UNKNOWN_FORMAT, reader.TooLarge: Error.TOO_LARGE}
        error = errors.get(type(exc), Error.UNUSABLE)
        raise Problem(error, f"`{name}`: {prefix}{exc.detail}", field=name) from exc
