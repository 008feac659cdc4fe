"""A multipart body to its fields, in memory, within limits that hold while it streams in.

Starlette's own form parser writes every file over 1 MiB to a temporary file and limits no
file's size, so the streaming parser beneath it (python-multipart) is used directly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import Error, Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

#: Longest text value, in bytes: `steps`, `top_k` and `attention` are short.
MAX_VALUE_BYTES = 1024


@dataclass(frozen=True)
class UploadLimits:
    """`max_file_bytes` of each file, `max_parts` of the form."""

    max_file_bytes: int
    max_parts: int


@dataclass(frozen=True)
class Form:
    """What came: text values and files' bytes by field name, each in the order sent.

    Fields that a browser sends empty because nothing was chosen are left out.
    """

    values: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)


async def read_form(
    content_type: str | None, stream: AsyncIterator[bytes], known: Set[str], limits: UploadLimits
) -> Form:
    """Read multipart/form-data from `stream`; a field that is not in `known` is refused.

    Raises Problem: UNREADABLE_FORM, INVALID_FIELD or TOO_LARGE.
    """
    if content_type is None:
        return Form()
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Problem(
            Error.UNREADABLE_FORM,
            f"The Content-Type is {content_type[:100]!r}; multipart/form-data with a boundary "
            "is needed (curl: -F clip=@FILE).",
        )
    reader = _Reader(known, limits)
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks())
        async for chunk in stream:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as exc:
        raise Problem(Error.UNREADABLE_FORM, f"The form is damaged: {exc}") from exc
    if not reader.ended:
        raise Problem(Error.UNREADABLE_FORM, "The form ends before its closing boundary.")
    return reader.form


class _Reader:
    """Receives the parser's events and collects the parts."""

    def __init__(self, known: Set[str], limits: UploadLimits) -> None:
        self.form = Form()
        self.ended = False
        self._known = known
        self._limits = limits
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
        self._disposition: bytes | None = None
        self._name = ""
        self._filename: str | None = None
        self._chunks: list[bytes] = []
        self._size = 0

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], self._header[1])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = (b"", b"")

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise Problem(Error.UNREADABLE_FORM, "A part of the form has no name.")
        self._name = options[b"name"].decode("utf-8", "replace")
        if b"filename" in options:
            self._filename = options[b"filename"].decode("utf-8", "replace")
        self._parts += 1
        if self._parts > self._limits.max_parts:
            detail = f"The form has more than {self._limits.max_parts} parts."
            raise Problem(Error.TOO_LARGE, detail)
        if self._name not in self._known:
            raise Problem(
                Error.INVALID_FIELD,
                f"There is no field {self._name[:100]!r}; there are: {', '.join(self._known)}.",
                field=self._name[:100],
            )

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        is_file = self._filename is not None
        limit = self._limits.max_file_bytes if is_file else MAX_VALUE_BYTES
        if self._size > limit:
            what = "file" if is_file else "value"
            detail = f"The {what} in `{self._name}` has more than {limit} bytes, which is the most."
            raise Problem(Error.TOO_LARGE, detail, field=self._name)
        self._chunks.append(data[start:end])

    def _end_part(self) -> None:
        content = b"".join(self._chunks)
        self._chunks = []
        if not content and not self._filename:
            return  # a form field that was left empty
        if self._filename is None:
            text = content.decode("utf-8", "replace")
            self.form.values.setdefault(self._name, []).append(text)
        else:
            self.form.files.setdefault(self._name, []).append(content)

    def _end(self) -> None:
        self.ended = True
