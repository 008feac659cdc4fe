"""Recognise text that was sent in place of a file, so that the error can name it."""

from __future__ import annotations

import codecs
import re

#: Bytes that are looked at.
_HEAD = 4096
#: Lines of equal length, as encoders write them, or one long line.
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{60,}(=|\Z|\r?\n)")
_BASE64_LETTERS = re.compile(rb"[A-Za-z0-9+/_=\r\n-]*")
#: Letters that the base64 of a media file has at least; a file of one letter is no base64.
_DISTINCT = 12
_ADDRESS = re.compile(rb"(https?|ftp|file|blob):", re.IGNORECASE)
#: Control characters that text has not.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def encoded_file(data: bytes) -> str | None:
    """What a file was turned into, where `data` is that: a data URL or base64 text."""
    head = data[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:5].lower() == b"data:":
        return "a data URL"
    looks_encoded = _BASE64.match(head) and _BASE64_LETTERS.fullmatch(head)
    if looks_encoded and len(set(head)) >= _DISTINCT:
        return "base64 text"
    return None


def text_in_place_of_file(data: bytes) -> str | None:
    """What kind of text `data` is; None where it is no text."""
    if (encoded := encoded_file(data)) is not None:
        return encoded
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data[:_HEAD])
    except UnicodeDecodeError:
        return None
    if _CONTROL.search(text):
        return None
    head = data[:_HEAD].strip()
    if _ADDRESS.match(head):
        return "an address"
    return "JSON" if head[:1] == b"{" else "text"
