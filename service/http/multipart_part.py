"""One part of a multipart form: what its headers say, and how its content is decoded."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from service.errors import Error, Problem

#: `; key=value` or `; key="value"`. A quote that is left open, or that stands within the text as
#: in `filename="a"b.webm"`, is part of the value.
_PARAMETER = re.compile(
    r';[ \t]*([^\s=;"]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"(?=[ \t]*(?:;|$))|[^;]*)', re.DOTALL
)
#: Encodings of text that a part may name; codecs also knows some that are no encodings of text.
_CHARSET = re.compile(
    r"utf-?(8|16|32)(-?[lb]e)?|(us-?)?ascii|latin-?1|iso-?8859-?\d+|windows-?125\d|cp125\d"
)
_BAD_ESCAPE = re.compile(rb"=(?![0-9A-Fa-f]{2}|\r?\n)")


@dataclass(frozen=True)
class PartHead:
    """What the headers of a part say.

    `name` of the field. `filename`: None where there is none, empty where a browser sends a field
    in which no file was chosen. `media_type`, `charset`, `content_encoding` and
    `transfer_encoding` are in lower case, None where they are not there.
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
        """Raise Problem UNSUPPORTED_ENCODING or INVALID_FIELD for what cannot be read here."""
        if self.media_type is not None and self.media_type.startswith("multipart/"):
            raise Problem(
                Error.INVALID_FIELD,
                f"`{self.name}` was sent as {self.media_type[:50]}, with parts of its own; send "
                "each file as a part of the form, with the field's name repeated.",
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
    """The head of a part from its headers, by their names in lower case.

    Raises Problem UNREADABLE_FORM where the field has no name.
    """
    _, disposition = split_header(_text(headers.get("content-disposition", b"")))
    name = _parameter(disposition, "name")
    if name is None:
        raise Problem(
            Error.UNREADABLE_FORM,
            "A part of the form has no name; it needs a header as in "
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
    """A header's value in lower case, and its parameters with their names in lower case.

    Of a parameter that is repeated the first counts.
    """
    kind, _, _ = value.partition(";")
    parameters: dict[str, str] = {}
    for key, text in _PARAMETER.findall(value):
        if len(text) >= 2 and text.startswith('"') and text.endswith('"'):
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        parameters.setdefault(key.lower(), text.strip())
    return kind.strip().lower(), parameters


def _parameter(parameters: Mapping[str, str], key: str) -> str | None:
    """A parameter as RFC 7578 has it, or else as RFC 8187 (`key*`) and RFC 2231 (`key*0`) do."""
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
    """The text of a value, UTF-8 unless its part names another encoding.

    Raises Problem INVALID_FIELD where the encoding is unknown or the content is none of it.
    """
    charset = head.charset or "utf-8"
    try:
        if not _CHARSET.fullmatch(charset):
            raise LookupError
        return content.decode(charset, "replace" if head.charset is None else "strict")
    except (LookupError, UnicodeError):
        detail = f"`{head.name}` is no text in charset={charset[:50]}; send it in UTF-8."
        raise Problem(Error.INVALID_FIELD, detail, field=head.name) from None


class ContentDecoder(Protocol):
    """Undoes a Content-Transfer-Encoding while content streams in."""

    def feed(self, data: bytes) -> bytes:
        """The next bytes of the content. Raises ValueError where `data` is not encoded so."""
        ...

    def finish(self) -> bytes:
        """The last bytes. Raises ValueError where some are missing."""
        ...


def content_decoder(head: PartHead) -> ContentDecoder:
    """The decoder of a part's content. Raises Problem UNSUPPORTED_ENCODING."""
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
        self._ended = False  # by padding

    def feed(self, data: bytes) -> bytes:
        text = self._rest + data.translate(None, b" \t\r\n")
        if text and self._ended:
            raise ValueError("there is more behind its padding")
        end = len(text) - len(text) % 4
        self._rest = text[end:]
        self._ended = text[:end].endswith(b"=")
        return binascii.a2b_base64(text[:end], strict_mode=True)

    def finish(self) -> bytes:
        padding = b"=" * (-len(self._rest) % 4)  # some clients leave it out
        return binascii.a2b_base64(self._rest + padding, strict_mode=True)


class _QuotedPrintable:
    def __init__(self) -> None:
        self._rest = b""  # the begin of an escape

    def feed(self, data: bytes) -> bytes:
        text = self._rest + data
        end = text.rfind(b"=", max(0, len(text) - 2))
        if end < 0:
            end = len(text)
        self._rest = text[end:]
        if bad := _BAD_ESCAPE.search(text, 0, end):
            raise ValueError(f"there is {text[bad.start() : bad.start() + 3]!r} in it")
        return binascii.a2b_qp(text[:end])

    def finish(self) -> bytes:
        if self._rest not in (b"", b"=\n"):
            raise ValueError(f"it ends in {self._rest!r}")
        return b""
