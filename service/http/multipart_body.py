"""Parse a multipart body in memory, within limits that hold while it streams in.

Starlette's own form parser writes every file over 1 MiB to a temporary file and limits no
file's size, so the streaming parser beneath it (python-multipart) is used directly. Which fields
there are is not its matter: `service.classification.upload_fields`.
"""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from service.errors import Error, Problem
from service.http.multipart_part import (
    ContentDecoder,
    PartHead,
    content_decoder,
    read_head,
    read_text,
    split_header,
)
from service.http.pasted_text import encoded_file, text_in_place_of_file

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

#: Longest text value, in bytes: `steps`, `top_k` and `attention` are short.
MAX_VALUE_BYTES = 1024
#: Headers of one part that are read; more make the form damaged.
_MAX_HEADERS = 16


@dataclass(frozen=True)
class FormFields:
    """The fields that a form may have: `files` with the maximum bytes of each file, as decoded,
    and the text fields `values`, each with the type that it has in JSON (`integer`, `number`,
    `boolean` or `string`). `repeated`: file fields that may have several files, an array in JSON.
    `note`: a sentence for the detail where a field is none of these. `numbered`: names may end in
    the number of a clip, as in `audio.0`. `choices`: the texts that a value field takes, if few.
    """

    files: Mapping[str, int]
    values: Mapping[str, str]
    repeated: frozenset[str] = frozenset()
    note: str = ""
    numbered: bool = False
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [*self.files, *self.values]

    def split(self, name: str) -> tuple[str, int | None]:
        """Return the field of a name, and the number of its clip. Raises Problem INVALID_FIELD."""
        if name in self.files or name in self.values:
            return name, None
        field, _, number = name.rpartition(".")
        is_number = number.isascii() and number.isdecimal() and len(number) < 10
        if not self.numbered or not is_number or field not in self.names:
            raise self.unknown(name)
        return field, int(number)

    def check_query(self, names: Iterable[str]) -> None:
        """Refuse the names of fields in a query, where they would have no effect. Raises Problem
        INVALID_FIELD."""
        for name in names:
            field, _, number = name.rpartition(".")
            if name in self.names or (self.numbered and number.isdecimal() and field in self.names):
                detail = f"`{name}` is in the query string; send it as a field of the form."
                raise Problem(Error.INVALID_FIELD, detail, field=name)

    def max_bytes(self, name: str) -> int:
        """Return the maximum bytes of one part of this field."""
        return self.files.get(name, MAX_VALUE_BYTES)

    def unknown(self, name: str) -> Problem:
        """Return the problem with a field that is none of these."""
        shown = name[:100]
        field, _, number = shown.rpartition(".")
        nearest = difflib.get_close_matches(shown.lower(), self.names, n=1, cutoff=0.8)
        if field in self.names and number.isdecimal() and not self.numbered:
            hint = "numbers are for several clips, at …/classify/batch. The"
        else:
            hint = f"did you mean `{nearest[0]}`? The" if nearest else "the"
        detail = f"No such field: {shown!r}; {hint} fields are: {', '.join(self.names)}."
        return Problem(Error.INVALID_FIELD, f"{detail} {self.note}".strip(), field=shown)


@dataclass(frozen=True)
class Form:
    """A parsed form: text values and files' bytes by field name, each in the order sent.

    Fields that a browser sends empty because nothing was chosen are left out.
    """

    values: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)


def check_encoding(content_encodings: Sequence[str]) -> None:
    """Reject a body that is compressed according to its Content-Encoding headers.

    Raises Problem UNSUPPORTED_ENCODING.
    """
    tokens = [token.strip() for header in content_encodings for token in header.split(",")]
    compressed = [token for token in tokens if token.lower() not in ("", "identity")]
    if compressed:
        raise Problem(
            Error.UNSUPPORTED_ENCODING,
            f"The request body has Content-Encoding: {', '.join(compressed)[:100]}; send it "
            "without one (video and sound are compressed already).",
        )


def _not_a_form(what: str) -> Problem:
    return Problem(
        Error.UNREADABLE_FORM,
        f"{what}; send multipart/form-data with a boundary (curl: -F clip=@FILE), or "
        "application/json with files in base64.",
    )


async def read_form(
    content_type: str | None, stream: AsyncIterator[bytes], fields: FormFields, max_parts: int
) -> Form:
    """Read multipart/form-data of at most `max_parts` parts from `stream`.

    A part of a file field is a file if it has a file name or a media type that is not text, or if
    its content is not text. Raises Problem: UNREADABLE_FORM, UNSUPPORTED_ENCODING, INVALID_FIELD
    (also for a field that is not among `fields`) or TOO_LARGE.
    """
    if content_type is None:
        async for chunk in stream:
            if chunk:
                raise _not_a_form("The body has no Content-Type")
        return Form()
    kind, options = split_header(content_type)
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not boundary:
        raise _not_a_form(f"The Content-Type is {content_type[:100]!r}")
    reader = _Reader(fields, max_parts)
    try:
        parser = MultipartParser(
            boundary.encode("latin-1", "replace"),
            reader.callbacks(),
            max_header_count=_MAX_HEADERS,
        )
        async for chunk in stream:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as exc:
        raise Problem(Error.UNREADABLE_FORM, f"The form is damaged: {exc}") from exc
    if not reader.ended:
        raise Problem(Error.UNREADABLE_FORM, "The form ends before its closing boundary.")
    return reader.form


class _Part:
    """Collects the content of one part, decoded, of at most `max_bytes`."""

    def __init__(self, head: PartHead, *, is_file_field: bool, max_bytes: int) -> None:
        head.check()
        self.head = head
        self._is_file_field = is_file_field
        self._max_bytes = max_bytes
        self._decoder: ContentDecoder = content_decoder(head)
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Raises Problem INVALID_FIELD, UNREADABLE_FORM or TOO_LARGE."""
        name = self.head.name
        if not self._is_file_field and self.head.filename is not None:
            detail = f"`{name}` was sent as a file; send it as text (curl: -F {name}=VALUE)."
            raise Problem(Error.INVALID_FIELD, detail, field=name)
        try:
            self._append(self._decoder.feed(data))
        except ValueError as exc:
            raise self._bad_encoding(exc) from exc
        if self._size > self._max_bytes:
            self._check_is_file(b"".join(self._chunks))  # the detail names text, however long it is
            kind = "file" if self._is_file_field else "value"
            setting = " (SCMRL_MAX_FILE_BYTES)" if self._is_file_field else ""
            maximum = f"at most {self._max_bytes} bytes are accepted{setting}"
            detail = f"The {kind} in `{name}` is too large; {maximum}."
            raise Problem(Error.TOO_LARGE, detail, field=name)

    def finish(self, form: Form) -> None:
        """Add the part to the form. Raises Problem INVALID_FIELD or UNREADABLE_FORM."""
        try:
            self._append(self._decoder.finish())
        except ValueError as exc:
            raise self._bad_encoding(exc) from exc
        name, content = self.head.name, b"".join(self._chunks)
        is_chosen = bool(self.head.filename) or (self.head.filename is None and self.head.is_file)
        if not content and not (is_chosen and self._is_file_field):
            return  # a form field that was left empty
        self._check_is_file(content)
        if self._is_file_field:
            form.files.setdefault(name, []).append(content)
        else:
            form.values.setdefault(name, []).append(read_text(content, self.head))

    def _append(self, content: bytes) -> None:
        self._size += len(content)
        self._chunks.append(content)

    def _check_is_file(self, content: bytes) -> None:
        if not self._is_file_field or not content:
            return
        kind = encoded_file(content) if self.head.is_file else text_in_place_of_file(content)
        if kind is not None:
            name = self.head.name
            raise Problem(
                Error.INVALID_FIELD,
                f"`{name}` was sent as {kind}, not as a file: send the file's own bytes, in a part "
                f"with a file name (curl: -F {name}=@FILE; in a browser: a File or Blob).",
                field=name,
            )

    def _bad_encoding(self, exc: ValueError) -> Problem:
        return Problem(
            Error.UNREADABLE_FORM,
            f"`{self.head.name}` has Content-Transfer-Encoding: {self.head.transfer_encoding}, "
            f"but its content is not: {exc}.",
            field=self.head.name,
        )


class _Reader:
    """Receives the parser's events and collects the parts."""

    def __init__(self, fields: FormFields, max_parts: int) -> None:
        self.form = Form()
        self.ended = False
        self._fields = fields
        self._max_parts = max_parts
        self._parts = 0
        self._begin()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._header: tuple[bytes, bytes] = (b"", b"")
        self._headers: dict[str, bytes] = {}
        self._part: _Part | None = None

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], self._header[1])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[name.decode("latin-1").lower()] = value
        self._header = (b"", b"")

    def _headers_finished(self) -> None:
        head = read_head(self._headers)
        self._parts += 1
        if self._parts > self._max_parts:
            each = " for each clip" * self._fields.numbered
            detail = (
                f"The form has too many parts; at most {self._max_parts} are accepted "
                f"(SCMRL_MAX_PARTS{each})."
            )
            raise Problem(Error.TOO_LARGE, detail)
        field, _ = self._fields.split(head.name)
        self._part = _Part(
            head,
            is_file_field=field in self._fields.files,
            max_bytes=self._fields.max_bytes(field),
        )

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part is not None:
            self._part.feed(data[start:end])

    def _end_part(self) -> None:
        if self._part is not None:
            self._part.finish(self.form)
            self._part = None

    def _end(self) -> None:
        self.ended = True
