"""The fields of the classify form: what they are, and what they mean together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

from service.classification.inputs import InputFiles
from service.errors import Error, Problem
from service.http.uploads import Fields, Form

_T = TypeVar("_T")

AttentionDetail = Literal["none", "grid", "overlay"]
ATTENTION_DETAILS: tuple[AttentionDetail, ...] = ("none", "grid", "overlay")

WANTED = (
    "send `clip` (a file with sound and picture), or `video` and `audio`, "
    "or `frames` (repeated) and `audio`"
)

#: File fields and what each takes.
FILES = {
    "clip": "A file with sound and picture: mp4, mov, webm, mkv, avi, flv, …",
    "video": "Instead of `clip`: a video, of which only the pictures are used.",
    "audio": "Instead of `clip`: a sound (wav, flac, ogg, mp3, m4a, …, or the sound of a video).",
    "frames": "Instead of `video`: pictures (jpeg, png, webp, …) in their order in time.",
}

#: Text fields and what each takes.
VALUES = {
    "steps": "Time steps T of the network; default: the checkpoint's own.",
    "top_k": "How many probabilities come back, most probable first; default: all.",
    "attention": "`none`; `grid`: the maps as numbers (default); `overlay`: as PNGs as well.",
    "degrade": "`true` (default): under load, and where the operator allows it, fewer time steps "
    "may be run, and the answer says so; `false` declines. `steps` is never lowered.",
}

FIELDS = Fields(files=FILES.keys(), values=VALUES.keys())


@dataclass(frozen=True)
class Options:
    """What is asked about the media. `steps` and `top_k` are None where not given; `degrade`:
    whether T may be lowered under load."""

    steps: int | None = None
    top_k: int | None = None
    attention: AttentionDetail = "grid"
    degrade: bool = True


def interpret(form: Form, *, max_steps: int, max_frames: int) -> tuple[InputFiles, Options]:
    """Check the fields alone and together. Raises Problem INVALID_FIELD, UNUSABLE or TOO_LARGE."""
    options = Options(
        steps=_count(form, "steps", max_steps),
        top_k=_count(form, "top_k", None),
        attention=_attention(form),
        degrade=_flag(form, "degrade", True),
    )
    return _media(form, max_frames), options


def _media(form: Form, max_frames: int) -> InputFiles:
    given = [name for name in FILES if name in form.files]
    if not given:
        raise Problem(Error.INVALID_FIELD, f"There is no file: {WANTED}.", field="clip")
    if "clip" in given and len(given) > 1:
        others = " and ".join(f"`{name}`" for name in given[1:])
        detail = f"`clip` came together with {others}: {WANTED}."
        raise Problem(Error.INVALID_FIELD, detail, field=given[1])
    if "video" in given and "frames" in given:
        detail = f"`video` and `frames` are both pictures: {WANTED}."
        raise Problem(Error.INVALID_FIELD, detail, field="frames")

    frames = form.files.get("frames", [])
    if len(frames) > max_frames:
        detail = f"There are {len(frames)} `frames`; at most {max_frames} are taken."
        raise Problem(Error.TOO_LARGE, detail, field="frames")
    for number, picture in enumerate(frames, start=1):
        if not picture:
            detail = f"Picture {number} of `frames` is an empty file."
            raise Problem(Error.UNUSABLE, detail, field="frames")
    return InputFiles(
        clip=_file(form, "clip"),
        video=_file(form, "video"),
        audio=_file(form, "audio"),
        frames=tuple(frames),
    )


def _file(form: Form, name: str) -> bytes | None:
    data = _only(form.files.get(name, []), name)
    if data == b"":
        raise Problem(Error.UNUSABLE, f"`{name}` is an empty file.", field=name)
    return data


def _count(form: Form, name: str, most: int | None) -> int | None:
    """A whole number from 1 to `most`; None where it was not given."""
    text = _only(form.values.get(name, []), name)
    if text is None:
        return None
    text = text.strip()
    is_number = text.isascii() and text.isdecimal() and len(text) < 10
    number = int(text) if is_number else 0
    if not 1 <= number <= (most or number):
        up_to = f"1 to {most}" if most else "1 or more"
        detail = f"`{name}` is {text[:20]!r}; it must be a whole number, {up_to}."
        raise Problem(Error.INVALID_FIELD, detail, field=name)
    return number


def _attention(form: Form) -> AttentionDetail:
    text = _only(form.values.get("attention", []), "attention")
    if text is None:
        return "grid"
    if text.strip() not in ATTENTION_DETAILS:
        choices = ", ".join(ATTENTION_DETAILS)
        detail = f"`attention` is {text[:20]!r}; it must be one of {choices}."
        raise Problem(Error.INVALID_FIELD, detail, field="attention")
    return cast(AttentionDetail, text.strip())


def _flag(form: Form, name: str, default: bool) -> bool:
    text = _only(form.values.get(name, []), name)
    if text is None:
        return default
    if text.strip() not in ("true", "false"):
        detail = f"`{name}` is {text[:20]!r}; it must be true or false."
        raise Problem(Error.INVALID_FIELD, detail, field=name)
    return text.strip() == "true"


def _only(found: Sequence[_T], name: str) -> _T | None:
    """The one element, or None; a field that came several times is refused."""
    if len(found) > 1:
        detail = f"`{name}` came {len(found)} times; it is taken once."
        raise Problem(Error.INVALID_FIELD, detail, field=name)
    return found[0] if found else None
