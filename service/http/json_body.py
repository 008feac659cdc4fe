"""Parse a JSON body: the fields of the form, with files in base64, for clients without forms."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from service.classification import upload_fields
from service.errors import Error, Problem
from service.http.multipart_body import Form, FormFields

#: The media type of the body.
MEDIA_TYPE = "application/json"
#: Prefix of a browser's FileReader before the base64 of a file.
DATA_URL = re.compile(r"data:[^,]{0,200};base64,")
#: Most marks (`count_marks`) of a value in a body that is accepted: an object in an array, a member
#: that is an array, the comma behind it and that of a data URL.
_MARKS = 4


def count_marks(body: bytes, end: int | None = None) -> int:
    """Return the number of commas and opening brackets before `end`, by which the time and memory
    that parsing takes grow, and other requests wait: base64 has none."""
    return sum(body.count(mark, 0, end) for mark in (b",", b"[", b"{"))


async def read_json(
    stream: AsyncIterator[bytes], fields: FormFields, max_bytes: int, max_parts: int
) -> Form:
    """Read an object of at most `max_bytes` from `stream`, with members as the form has fields, of
    which there are at most `max_parts`.

    Files are base64, or data URLs of it; those of a repeated field are an array. Values have the
    types of `fields`. A member that is null counts as not sent. It is parsed in a thread. Raises
    Problem: UNREADABLE_FORM, INVALID_FIELD (also for a member that is not among `fields`) or
    TOO_LARGE.
    """
    body = await _read(stream, max_bytes)
    return await asyncio.to_thread(parse_json, body, fields, max_parts)


async def read_json_clips(
    stream: AsyncIterator[bytes],
    fields: FormFields,
    max_bytes: int,
    max_parts: int,
    max_clips: int,
) -> list[Form]:
    """Read an array of 1 to `max_clips` such objects, one for each clip. Raises Problem as
    `read_json` does; the field has the clip's number behind it."""
    body = await _read(stream, max_bytes)
    return await asyncio.to_thread(parse_json_clips, body, fields, max_parts, max_clips)


async def _read(stream: AsyncIterator[bytes], max_bytes: int) -> bytes:
    """Read a whole body. Raises Problem TOO_LARGE."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > max_bytes:
            detail = (
                f"A JSON body has at most {max_bytes} bytes (SCMRL_MAX_JSON_MIB); send larger "
                "files as multipart/form-data (curl: -F clip=@FILE)."
            )
            raise Problem(Error.TOO_LARGE, detail)
        chunks.append(chunk)
    return b"".join(chunks)


def parse_json(body: bytes, fields: FormFields, max_parts: int) -> Form:
    """Parse a whole body. Raises Problem as `read_json` does."""
    return _form(_parse(body, max_parts), fields)


def parse_json_clips(body: bytes, fields: FormFields, max_parts: int, max_clips: int) -> list[Form]:
    """Parse a whole body of several clips. Raises Problem as `read_json_clips` does."""
    clips = _parse(body, max_parts * max_clips)
    if not isinstance(clips, list):
        detail = "The JSON must be an array of objects, each with the form's fields."
        raise Problem(Error.UNREADABLE_FORM, detail)
    check_number(len(clips), max_clips)  # before any of them is looked at: there may be millions
    forms = []
    for number, clip in enumerate(clips):
        with naming_clip(number):
            forms.append(_form(clip, fields))
    return forms


def check_number(clips: int, max_clips: int) -> None:
    """Check how many clips there are. Raises Problem INVALID_FIELD or TOO_LARGE."""
    if not clips:
        raise Problem(Error.INVALID_FIELD, "No clip was sent.", field=upload_fields.FIELDS[0].name)
    if clips > max_clips:
        detail = f"There are {clips} clips; at most {max_clips} are accepted (SCMRL_CALL_CLIPS)."
        raise Problem(Error.TOO_LARGE, detail)


@contextmanager
def naming_clip(number: int) -> Iterator[None]:
    """Name a clip of several in the problems of this block."""
    try:
        yield
    except Problem as exc:
        field = None if exc.field is None else f"{exc.field}.{number}"
        raise Problem(exc.error, f"Clip {number}: {exc.detail}", field=field) from exc


def _form(members: Any, fields: FormFields) -> Form:
    # An object is a tuple of its members, those of equal names as well; no other value is.
    if not isinstance(members, tuple):
        raise Problem(Error.UNREADABLE_FORM, "The JSON must be an object with the form's fields.")
    form = Form()
    for name, value in members:
        if value is None and name in fields.names:
            continue  # as an empty field of a form; programs write null for what is not set
        if name in fields.files:
            if name in form.files:
                raise _twice(name)
            texts = _texts(name, value, is_array=name in fields.repeated)
            form.files[name] = [_file(name, text, fields.max_bytes(name)) for text in texts]
        elif name in fields.values:
            if name in form.values:
                raise _twice(name)
            form.values[name] = [_text(name, value, fields)]
        else:
            raise fields.unknown(name)
    return form


def _parse(body: bytes, max_parts: int) -> Any:
    """Return the value, with a tuple of its members for each object. Raises Problem."""
    if count_marks(body) > _MARKS * max_parts:
        detail = (
            f"The JSON has too many values; at most {max_parts} are accepted (SCMRL_MAX_PARTS for "
            "each clip)."
        )
        raise Problem(Error.TOO_LARGE, detail)
    try:
        return json.loads(body, object_pairs_hook=tuple, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise Problem(Error.UNREADABLE_FORM, f"The JSON is damaged: {str(exc)[:200]}.") from exc


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _texts(name: str, value: Any, *, is_array: bool) -> list[Any]:
    """Return the texts of a file field. Raises Problem INVALID_FIELD."""
    if is_array and not isinstance(value, list):
        detail = f"`{name}` must be an array of texts in base64."
        raise Problem(Error.INVALID_FIELD, detail, field=name)
    return value if is_array else [value]


def _file(name: str, text: Any, max_bytes: int) -> bytes:
    """Decode a file. Raises Problem INVALID_FIELD or TOO_LARGE."""
    if not isinstance(text, str):
        raise Problem(Error.INVALID_FIELD, f"`{name}` must be base64 in a text.", field=name)
    prefix = DATA_URL.match(text)
    encoded = text[prefix.end() :] if prefix else text
    if len(encoded) > (max_bytes + 2) // 3 * 4:
        accepted = f"at most {max_bytes} bytes are accepted (SCMRL_MAX_FILE_BYTES)"
        detail = f"The file in `{name}` is too large; {accepted}."
        raise Problem(Error.TOO_LARGE, detail, field=name)
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError as exc:
        detail = f"`{name}` is not base64: {exc}."
        raise Problem(Error.INVALID_FIELD, detail, field=name) from exc


def _text(name: str, value: Any, fields: FormFields) -> str:
    """Return a value of its field's JSON type as the form has it. Raises Problem INVALID_FIELD."""
    kind = fields.values[name]
    if kind == "boolean" and isinstance(value, bool):
        return "true" if value else "false"
    if kind == "string" and isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in ("integer", "number") and is_number:
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)
    choices = fields.choices.get(name)
    one = f": one of {', '.join(map(json.dumps, choices))}" if choices else ""
    detail = f"`{name}` must be of the JSON type {kind}{one}."
    raise Problem(Error.INVALID_FIELD, detail, field=name)


def _twice(name: str) -> Problem:
    return Problem(Error.INVALID_FIELD, f"`{name}` was sent twice; send it once.", field=name)
