"""Parse the headers of one part of a multipart form, and decode its content."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from service.errors import Error, Problem

#: `; key=value` or `; key="value"`. A quote that is not closed, or in the middle of the text as in
#: `filename="a"b.webm"`, is part of the value.
_PARAMETER = re.compile(
    r';[ \t]*([^\s=;"]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"(?=[ \t]*(?:;|$))|[^;]*)', re.DOTALL
)
#: Text encodings that a part may have. Python's codecs also have some that are not for text.
_CHARSET = re.compile(
    r"utf-?(8|16|32)(-?[lb]e)?|(us-?)?ascii|latin-?1|iso-?8859-?\d+|windows-?125\d|cp125\d"
)
_BAD_ESCAPE = re.compile(rb"=(?![0-9A-Fa-f]{2}|\r?\n)")


@dataclass(frozen=True)
class PartHead:
    """The parsed headers of a part.

    - `name`: of the field.
    - `filename`: None where it is missing; empty where no file was chosen in a browser.
    - `media_type`, `charset`, `content_encoding`, `transfer_encoding`: in lower case, None where
      they are missing.
    """

    name: str
    filename: str | None
    media_type: str | None
    charset: str | None
    content_encoding: str | None
    transfer_encoding: str | None

    @property
    def is_file(self) -> bool:
        """Whether the headers declare a file: a file name, or a media type that is not text."""
        if self.filename is not None:
            return True
        return self.media_type is not None and not self.media_type.startswith("text/")

    def check(self) -> None:
        """Raise Problem UNSUPPORTED_ENCODING or INVALID_FIELD for a part that is not supported."""
        if self.media_type is not None and self.media_type.startswith("multipart/"):
            raise Problem(
                Error.INVALID_FIELD,
                f"`{self.name}` was sent as {self.media_type[:50]}, with nested parts; send each "
                "file as its own part of the form, with the name of the field repeated.",
                field=self.name,
            )
        if self.content_encoding not in (None, "", "identity"):
            raise Problem(
                Error.UNSUPPORTED_ENCODING,
                f"`{self.name}` has Content-Encoding: {self.content_encoding[:50]}; send the "
                "file as it is.",
                field=self.name,
            )


def read_head(headers: Mapping[str, bytes]) -> PartHead:
    """Parse the headers of a part, by their names in lower case.

    Raises Problem UNREADABLE_FORM where the field has no name.
    """
    _, disposition = split_header(_text(headers.get("content-disposition", b"")))
    name = _parameter(disposition, "name")
    if name is None:
        raise Problem(
            Error.UNREADABLE_FORM,
            "A part of the form has no name; it needs a header such as "
            'Content-Disposition: form-data; name="clip"; filename="clip.mp4".',
        )
    media_type, parameters = split_header(_text(headers.get("content-type", b"")))
    return PartHead(
        name=name,
        filename=_parameter(disposition, "filename"),
        media_type=media_type or None,
        charset=parameters.get("charset", "").lower() or None,
        content_encoding=_token(headers, "content-encoding"),
        transfer_encoding=_token(headers, "content-transfer-encoding"),
    )


def split_header(value: str) -> tuple[str, dict[str, str]]:
    """Return a header's value and its parameters by name; value and names are in lower case.

    Of a repeated parameter, the first one is used.
    """
    kind, _, _ = value.partition(";")
    parameters: dict[str, str] = {}
    for key, text in _PARAMETER.findall(value):
        if len(text) >= 2 and text.startswith('"') and text.endswith('"'):
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        parameters.setdefault(key.lower(), text.strip())
    return kind.strip().lower(), parameters


def _parameter(parameters: Mapping[str, str], key: str) -> str | None:
    """Return a parameter (RFC 7578), or else its form of RFC 8187 (`key*`) or 2231 (`key*0`)."""
    if key in parameters:
        return parameters[key]
    extended = next((k for k in parameters if k.partition("*")[0] == key), None)
    if extended is None:
        return None
    charset, quote, rest = parameters[extended].partition("'")
    if not quote:
        return unquote(charset)
    encoded = rest.partition("'")[2]
    try:
        return unquote(encoded, encoding=charset or "utf-8", errors="replace")
    except (LookupError, ValueError):  # an encoding that Python does not know
        return unquote(encoded, errors="replace")


def _text(header: bytes) -> str:
    return header.decode("utf-8", "replace")


def _token(headers: Mapping[str, bytes], name: str) -> str | None:
    return _text(headers[name]).strip().lower() if name in headers else None


def read_text(content: bytes, head: PartHead) -> str:
    """Decode the text of a value, as UTF-8 unless its part has another charset.

    Raises Problem INVALID_FIELD where the charset is unknown or does not fit the content.
    """
    charset = head.charset or "utf-8"
    try:
        if not _CHARSET.fullmatch(charset):
            raise LookupError
        return content.decode(charset, "replace" if head.charset is None else "strict")
    except (LookupError, UnicodeError):
        detail = f"`{head.name}` cannot be decoded with charset={charset[:50]}; send UTF-8."
        raise Problem(Error.INVALID_FIELD, detail, field=head.name) from None


class ContentDecoder(Protocol):
    """Decodes a Content-Transfer-Encoding while the content is received."""

    def feed(self, data: bytes) -> bytes:
        """Return the next bytes of the content. Raises ValueError for invalid `data`."""
        ...

    def finish(self) -> bytes:
        """Return the last bytes of the content. Raises ValueError where the data is incomplete."""
        ...


def content_decoder(head: PartHead) -> ContentDecoder:
    """Return a decoder for the content of a part. Raises Problem UNSUPPORTED_ENCODING."""
    match head.transfer_encoding:
        case None | "" | "binary" | "8bit" | "7bit":
            return _Identity()
        case "base64":
            return _Base64()
        case "quoted-printable":
            return _QuotedPrintable()
        case other:
            detail = (
                f"`{head.name}` has Content-Transfer-Encoding: {other[:50]}; can be binary "
                "(which is the default), base64 or quoted-printable."
            )
            raise Problem(Error.UNSUPPORTED_ENCODING, detail, field=head.name)


class _Identity:
    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


class _Base64:
    def __init__(self) -> None:
        self._rest = b""  # fewer than 4 characters
        self._has_ended = False  # by padding

    def feed(self, data: bytes) -> bytes:
        text = self._rest + data.translate(None, b" \t\r\n")
        if text and self._has_ended:
            raise ValueError("it has data after the padding")
        end = len(text) - len(text) % 4
        self._rest = text[end:]
        self._has_ended = text[:end].endswith(b"=")
        return binascii.a2b_base64(text[:end], strict_mode=True)

    def finish(self) -> bytes:
        padding = b"=" * (-len(self._rest) % 4)  # some clients leave it out
        return binascii.a2b_base64(self._rest + padding, strict_mode=True)


class _QuotedPrintable:
    def __init__(self) -> None:
        self._rest = b""  # the beginning of an escape

    def feed(self, data: bytes) -> bytes:
        text = self._rest + data
        end = text.rfind(b"=", max(0, len(text) - 2))
        if end < 0:
            end = len(text)
        self._rest = text[end:]
        if bad := _BAD_ESCAPE.search(text, 0, end):
            raise ValueError(f"it has the invalid escape {text[bad.start() : bad.start() + 3]!r}")
        return binascii.a2b_qp(text[:end])

    def finish(self) -> bytes:
        if self._rest not in (b"", b"=\n"):
            raise ValueError(f"it ends with the incomplete escape {self._rest!r}")
        return b""
