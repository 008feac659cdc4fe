"""Parse a JSON body: the fields of the form, with files in base64, for clients without forms."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any

from service.errors import Error, Problem
from service.http.multipart_body import Form, FormFields

#: The media type of the body.
MEDIA_TYPE = "application/json"
#: What a browser's FileReader puts before the base64 of a file.
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,")


async def read_json(stream: AsyncIterator[bytes], fields: FormFields, max_bytes: int) -> Form:
    """Read an object of at most `max_bytes` from `stream`, with members as the form has fields.

    Files are base64, or data URLs of it; those of a repeated field are an array. Values have the
    types of `fields`. It is parsed in a thread. Raises Problem: UNREADABLE_FORM, INVALID_FIELD
    (also for a member that is not among `fields`) or TOO_LARGE.
    """
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
    return await asyncio.to_thread(parse_json, b"".join(chunks), fields)


def parse_json(body: bytes, fields: FormFields) -> Form:
    """Parse a whole body. Raises Problem as `read_json` does."""
    form = Form()
    for name, value in _members(body):
        if name in fields.files:
            if name in form.files:
                raise _twice(name)
            texts = _texts(name, value, is_array=name in fields.repeated)
            form.files[name] = [_file(name, text, fields.max_bytes(name)) for text in texts]
        elif name in fields.values:
            if name in form.values:
                raise _twice(name)
            form.values[name] = [_text(name, value, fields.values[name])]
        else:
            raise fields.unknown(name)
    return form


def _members(body: bytes) -> list[tuple[str, Any]]:
    """Return the members of the object, those of equal names as well. Raises Problem."""
    try:
        # An object becomes a tuple of its members, which no other value is.
        parsed = json.loads(body, object_pairs_hook=tuple, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise Problem(Error.UNREADABLE_FORM, f"The JSON is damaged: {str(exc)[:200]}.") from exc
    if not isinstance(parsed, tuple):
        raise Problem(Error.UNREADABLE_FORM, "The JSON must be an object with the form's fields.")
    return list(parsed)


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
    prefix = _DATA_URL.match(text)
    encoded = text[prefix.end() :] if prefix else text
    if len(encoded) > (max_bytes + 2) // 3 * 4:
        detail = f"The file in `{name}` is too large; at most {max_bytes} bytes are accepted."
        raise Problem(Error.TOO_LARGE, detail, field=name)
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError as exc:
        detail = f"`{name}` is not base64: {exc}."
        raise Problem(Error.INVALID_FIELD, detail, field=name) from exc


def _text(name: str, value: Any, kind: str) -> str:
    """Return a value of this JSON type as the form has it. Raises Problem INVALID_FIELD."""
    if kind == "boolean" and isinstance(value, bool):
        return "true" if value else "false"
    if kind == "string" and isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in ("integer", "number") and is_number:
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)
    detail = f"`{name}` must be of the JSON type {kind}."
    raise Problem(Error.INVALID_FIELD, detail, field=name)


def _twice(name: str) -> Problem:
    return Problem(Error.INVALID_FIELD, f"`{name}` is there twice; send it once.", field=name)
