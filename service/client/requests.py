"""Requests of the HTTP API and the meaning of their responses, without any connection."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from io import TextIOBase
from pathlib import Path
from typing import BinaryIO, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from .answers import Classification, ClipResults
from .errors import Problem, ProblemError, UnreachableError

#: A file: its bytes, its path, or an open binary file.
File = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO


class ClassifyFields(TypedDict, total=False):
    """The arguments of `classify`; None is the same as leaving one out.

    - Files: `clip`, `video`, `audio`, `frames` (in temporal order), `events`, `audio_events`, and
      `streams`: files by the names of the streams in the checkpoint's card.
    - `steps`: time steps T, 1 to 64. `top_k`: labels to return, from 1.
    - `attention`: no maps, their values, or also PNGs of them over the input (`overlay`).
    - `class_activation`: the same for the maps of what each part of a stream adds to the logit of
      the most probable label.
    - `abstain_below`: 0 to 1, the least probability of a label. `abstain_beyond`: from 0, the
      greatest `out_of_domain` of a clip that gets a label.
    - `exit_margin`: 0 to 1; stop where the highest probability exceeds the next by this much.
    - `diagnostics`, `steps_trace`, `degrade`, `contributions`: see docs/http-api.md.
    """

    clip: File | None
    video: File | None
    audio: File | None
    frames: Sequence[File] | None
    events: File | None
    audio_events: File | None
    streams: Mapping[str, File | Sequence[File]] | None
    steps: int | None
    top_k: int | None
    attention: Literal["none", "grid", "overlay"] | None
    class_activation: Literal["none", "grid", "overlay"] | None
    contributions: Literal["tower", "leave_one_out"] | None
    abstain_below: float | None
    abstain_beyond: float | None
    diagnostics: bool | None
    steps_trace: bool | None
    exit_margin: float | None
    degrade: bool | None


_FILES = ("clip", "video", "audio", "frames", "events", "audio_events")
_AnswerT = TypeVar("_AnswerT", bound=BaseModel)


class Form(TypedDict):
    """A form as httpx takes it: options, and files with their names."""

    data: dict[str, str]
    files: list[tuple[str, tuple[str, bytes]]]


def classify_path(model: str | None) -> str:
    """Return the path of a checkpoint's classification; None: the service's default one."""
    return card_path(model) + "/classify" if model else "v1/classify"


def batch_path(model: str | None) -> str:
    """Return the path of the classification of several clips."""
    return classify_path(model) + "/batch"


def card_path(name: str) -> str:
    """Return the path of a checkpoint. Raises ValueError for a name that leads to another path."""
    if name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not the name of a checkpoint")
    return f"v1/models/{quote(name, safe='')}"


def read_form(fields: ClassifyFields) -> Form:
    """Read the files, and return the form. Raises TypeError for an unknown field, OSError."""
    if unknown := fields.keys() - ClassifyFields.__annotations__.keys():
        accepted = ", ".join(ClassifyFields.__annotations__)
        raise TypeError(f"classify takes no {', '.join(sorted(unknown))}; it takes {accepted}")
    named: dict[str, object] = {name: fields.get(name) for name in _FILES}
    files = []
    for name, value in (named | dict(fields.get("streams") or {})).items():
        if value is not None:
            several = value if isinstance(value, list | tuple) else [value]
            files += [(name, _read_file(name, file)) for file in several]
    others = ClassifyFields.__annotations__.keys() - {*_FILES, "streams"}
    options = {name: value for name, value in fields.items() if name in others}
    return {"data": {n: _text(v) for n, v in options.items() if v is not None}, "files": files}


def read_batch_form(clips: Sequence[ClassifyFields], options: ClassifyFields) -> Form:
    """Read the files of several clips, and return the form: fields have the clip's number.

    `options`: for every clip that has none of its own. Raises ValueError where there is no clip, or
    one without a file, and what `read_form` raises.
    """
    form = read_form(options)
    if form["files"]:
        raise TypeError(f"{form['files'][0][0]}: files belong to a clip, not to the options of all")
    if not clips:
        raise ValueError("clips is empty: at least one is needed")
    for number, fields in enumerate(clips):
        if not isinstance(fields, Mapping):
            raise TypeError(
                f"clip {number}: must be a dictionary of the arguments of classify, as "
                f"{{'clip': 'CLIP.mp4'}}, not {type(fields)}"
            )
        clip = read_form(fields)
        if not clip["files"]:
            raise ValueError(
                f"clip {number} has no file; it needs one of {', '.join(_FILES)} or streams"
            )
        form["data"] |= {f"{name}.{number}": value for name, value in clip["data"].items()}
        form["files"] += [(f"{field}.{number}", file) for field, file in clip["files"]]
    return form


def _read_file(field: str, file: object) -> tuple[str, bytes]:
    """Return name and content."""
    if isinstance(file, bytes | bytearray | memoryview):
        return field, bytes(file)
    if isinstance(file, str | os.PathLike):
        path = Path(file)
        return _name(path), path.read_bytes()
    if not hasattr(file, "read"):
        raise TypeError(f"{field}: must be bytes, a path or a binary file, not {type(file)}")
    content = b"" if isinstance(file, TextIOBase) else file.read()
    if isinstance(file, TextIOBase) or not isinstance(content, bytes):
        raise TypeError(f"{field}: the file must be open in binary mode")
    return _name(Path(str(getattr(file, "name", field)))), content


def _name(path: Path) -> str:
    """Return the name of a file in UTF-8, as forms are, where that of the file is not."""
    return path.name.encode(errors="replace").decode()


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(response: httpx.Response, answer: type[_AnswerT]) -> _AnswerT:
    """Return a response's answer. Raises ProblemError and UnreachableError."""
    check(response)
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as exc:
        raise UnreachableError(
            f"The answer of {response.url} is not that of an scmrl service: "
            f"{exc.errors()[0]['msg']}."
        ) from exc


def parse_batch(response: httpx.Response, count: int) -> list[Classification | ProblemError]:
    """Return the results of `count` clips. Raises ProblemError and UnreachableError."""
    results: list[Classification | ProblemError] = []
    for result in parse(response, ClipResults).results:
        if result.answer is not None:
            results.append(result.answer)
        elif result.problem is not None:
            results.append(ProblemError(result.problem, result.retry_after_s))
    if len(results) != count:
        raise UnreachableError(f"{response.url} has {len(results)} results for {count} clips.")
    return results


def check(response: httpx.Response) -> None:
    """Raise ProblemError for a response that is an error."""
    if not response.is_success:
        raise problem_of(response.status_code, response.headers, response.content)


def problem_of(status: int, headers: Mapping[str, str], body: bytes) -> ProblemError:
    """Return the error of a response, also of one that a proxy has sent."""
    after = retry_after_s(headers.get("Retry-After"))
    if "problem+json" in headers.get("Content-Type", ""):
        try:
            return ProblemError(Problem.model_validate_json(body), after)
        except ValidationError:
            pass  # a proxy has changed it
    detail = f"A proxy before the service answered with status {status}."
    if 300 <= status < 400 and "Location" in headers:
        detail += f" It redirects to {headers['Location']}, which is not followed."
    problem = Problem(status=status, title=detail, detail=detail)
    return ProblemError(problem, after, of_proxy=True)


def retry_after_s(value: str | None) -> float | None:
    """Return the seconds of a Retry-After, a number or a date; None if it is neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
