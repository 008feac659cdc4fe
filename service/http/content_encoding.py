"""Compressed bodies: inflated within bounds, and responses compressed where that was asked for."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from collections.abc import AsyncIterator, Callable, Sequence

from service.errors import Error, Problem

#: Bytes that are inflated at a time.
_CHUNK = 1 << 20
#: zlib's window for each coding that is read; 32: the header of gzip or zlib tells which.
_WINDOW = zlib.MAX_WBITS | 32
_CODINGS = ("gzip", "x-gzip", "deflate")
#: Smallest response that is compressed.
_MIN_BYTES = 256
_NO_WEIGHT = re.compile(r"q=0(\.0*)?")


async def read_body(
    stream: AsyncIterator[bytes],
    encodings: Sequence[str],
    max_bytes: int,
    reserve: Callable[[int], None],
) -> bytes:
    """Read a whole body, inflated by its Content-Encoding headers, of at most `max_bytes`.

    `reserve` receives the bytes that are inflated, as they are. Raises Problem
    UNSUPPORTED_ENCODING, TOO_LARGE, UNREADABLE_FORM, and what `reserve` raises.
    """
    tokens = [token.strip().lower() for header in encodings for token in header.split(",")]
    codings = [token for token in tokens if token not in ("", "identity")]
    if len(codings) > 1 or not set(codings) <= set(_CODINGS):
        detail = f"The request body has Content-Encoding: {', '.join(codings)[:100]}"
        raise Problem(Error.UNSUPPORTED_ENCODING, f"{detail}; can be gzip, deflate or none.")
    chunks: list[bytes] = []
    size = 0
    if not codings:
        async for chunk in stream:
            size += len(chunk)
            _check(size, max_bytes)
            chunks.append(chunk)
        return b"".join(chunks)
    inflater = zlib.decompressobj(_WINDOW)
    try:
        async for chunk in stream:
            while chunk and not inflater.eof:
                inflated = await asyncio.to_thread(inflater.decompress, chunk, _CHUNK)
                size += len(inflated)
                _check(size, max_bytes)
                reserve(len(inflated))
                chunks.append(inflated)
                chunk = inflater.unconsumed_tail
        chunks.append(inflater.flush())  # less than a chunk, since no input is left
    except zlib.error as exc:
        raise _damaged(str(exc)) from exc
    if not inflater.eof:
        raise _damaged("it is incomplete")
    if inflater.unused_data:
        raise _damaged("data follow its end")
    return b"".join(chunks)


def _check(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        detail = f"The request body has more than {max_bytes} bytes"
        raise Problem(Error.TOO_LARGE, f"{detail} (SCMRL_MAX_JSON_MIB, SCMRL_MAX_BODY_BYTES).")


def _damaged(reason: str) -> Problem:
    return Problem(Error.UNREADABLE_FORM, f"The compressed body is damaged: {reason}.")


async def compress(content: bytes, accept: str) -> tuple[bytes, dict[str, str]]:
    """Return the content of a response and its headers, compressed if an Accept-Encoding header
    allows gzip or deflate."""
    headers = {"Vary": "Accept-Encoding"}
    accepted = set()
    for part in accept.lower().split(","):
        coding, _, weight = part.strip().partition(";")
        if not _NO_WEIGHT.fullmatch(weight.strip()):
            accepted.add(coding.strip())
    if len(content) < _MIN_BYTES or not accepted & {"gzip", "deflate"}:
        return content, headers
    if "gzip" in accepted:
        body = await asyncio.to_thread(gzip.compress, content, 5)
        return body, headers | {"Content-Encoding": "gzip"}
    body = await asyncio.to_thread(zlib.compress, content, 5)
    return body, headers | {"Content-Encoding": "deflate"}
