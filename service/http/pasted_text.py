"""Detect text that was sent instead of a file, so that the error can name it."""

from __future__ import annotations

import codecs
import re

#: Number of first bytes that are examined.
_HEAD = 4096
#: Lines of equal length, as encoders write them, or one long line.
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{60,}(=|\Z|\r?\n)")
_BASE64_LETTERS = re.compile(rb"[A-Za-z0-9+/_=\r\n-]*")
#: Minimum number of different characters in the base64 of a media file.
_MIN_DISTINCT = 12
_URL = re.compile(rb"(https?|ftp|file|blob):", re.IGNORECASE)
#: Control characters that do not occur in text.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def encoded_file(data: bytes) -> str | None:
    """Return "a data URL" or "base64 text" where `data` is an encoded file; else None."""
    head = data[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:5].lower() == b"data:":
        return "a data URL"
    is_base64 = _BASE64.match(head) and _BASE64_LETTERS.fullmatch(head)
    if is_base64 and len(set(head)) >= _MIN_DISTINCT:
        return "base64 text"
    return None


def text_in_place_of_file(data: bytes) -> str | None:
    """Return the kind of text that `data` is; None where it is not text."""
    if (encoded := encoded_file(data)) is not None:
        return encoded
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data[:_HEAD])
    except UnicodeDecodeError:
        return None
    if _CONTROL.search(text):
        return None
    head = data[:_HEAD].strip()
    if _URL.match(head):
        return "a URL"
    return "JSON" if head[:1] == b"{" else "text"
