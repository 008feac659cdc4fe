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

    Files are base64, or data URLs of it; several of a field are an array. Values are texts, numbers
    or booleans. It is parsed in a thread. Raises Problem: UNREADABLE_FORM, INVALID_FIELD (also for
    a member that is not among `fields`) or TOO_LARGE.
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
            texts = value if isinstance(value, list) else [value]
            form.files[name] = [_file(name, text, fields.max_bytes(name)) for text in texts]
        elif name in fields.values:
            if name in form.values:
                raise _twice(name)
            form.values[name] = [_text(name, value)]
        else:
            raise Problem(
                Error.INVALID_FIELD,
                f"No such field: {name[:100]!r}; the fields are: {', '.join(fields.names)}.",
                field=name[:100],
            )
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


def _text(name: str, value: Any) -> str:
    """Return a value as the form has it. Raises Problem INVALID_FIELD."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    detail = f"`{name}` must be a text, a number or a boolean."
    raise Problem(Error.INVALID_FIELD, detail, field=name)


def _twice(name: str) -> Problem:
    return Problem(Error.INVALID_FIELD, f"`{name}` is there twice; send it once.", field=name)
