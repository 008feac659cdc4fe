"""The streaming form reader: what it accepts, what it refuses, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.errors import Error, Problem
from service.uploads import Form, UploadLimits, read_form

KNOWN = {"clip": 0, "frames": 0, "steps": 0}.keys()
LIMITS = UploadLimits(max_file_bytes=1000, max_parts=4)
MULTIPART = "multipart/form-data; boundary=b"


def part(name: str, content: bytes, filename: str | None = None, kind: str = "") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    kind = f"Content-Type: {kind}\r\n" if kind else ""
    return f"--b\r\n{disposition}\r\n{kind}\r\n".encode() + content + b"\r\n"


def read(
    body: bytes,
    content_type: str | None = MULTIPART,
    chunk: int = 65536,
    limits: UploadLimits = LIMITS,
) -> Form:
    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), chunk):
            yield body[start : start + chunk]

    return asyncio.run(read_form(content_type, stream(), KNOWN, limits))


@pytest.mark.parametrize("chunk", [1, 7, 65536])
def test_files_and_values_arrive_whole_however_they_are_cut(chunk: int) -> None:
    content = bytes(range(256)) + b"\r\n--b" + b"\r\n--"
    body = (
        part("clip", content, "a.webm", "video/webm;codecs=vp8,opus")
        + part("steps", b"4")
        + part("frames", b"1", "1.png")
        + b"--b--\r\n"
    )
    body = body.replace(b"\r\n--b\r\n--", b"\r\n--bb\r\n--")  # no accidental boundary in content
    form = read(body, chunk=chunk)
    assert form.values == {"steps": ["4"]}
    assert form.files["frames"] == [b"1"]
    assert form.files["clip"][0].startswith(bytes(range(256)))


def test_repeated_files_keep_their_order() -> None:
    body = b"".join(part("frames", bytes([n]), f"{n}.png") for n in range(3)) + b"--b--"
    assert read(body).files["frames"] == [b"\0", b"\1", b"\2"]


def test_fields_that_a_browser_left_empty_are_not_there() -> None:
    body = part("clip", b"", "", "application/octet-stream") + part("steps", b"") + b"--b--"
    assert read(body) == Form()


def test_an_empty_file_with_a_name_is_there() -> None:
    assert read(part("clip", b"", "empty.mp4") + b"--b--").files == {"clip": [b""]}


def test_no_body_is_an_empty_form() -> None:
    assert read(b"", content_type=None) == Form()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{}", "application/json"),
        (b"steps=4", "application/x-www-form-urlencoded"),
        (b"--b--", "multipart/form-data"),
        (b"no boundary in here", MULTIPART),
        (part("clip", b"1", "a.mp4"), MULTIPART),  # cut off
        (b"", MULTIPART),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--", MULTIPART),
        (b"--b\r\n: \r\n\r\n1\r\n--b--", MULTIPART),
    ],
)
def test_an_unreadable_form_is_400(body: bytes, content_type: str) -> None:
    with pytest.raises(Problem) as caught:
        read(body, content_type)
    assert caught.value.error is Error.UNREADABLE_FORM


def test_an_unknown_field_is_named_with_those_that_are_known() -> None:
    with pytest.raises(Problem) as caught:
        read(part("klip", b"1", "a.mp4") + b"--b--")
    assert caught.value.error is Error.INVALID_FIELD
    assert caught.value.field == "klip"
    assert "clip, frames, steps" in caught.value.detail


@pytest.mark.parametrize(
    "body",
    [
        part("clip", b"x" * 1001, "a.mp4"),
        part("steps", b"1" * 1025),
        b"".join(part("frames", b"1", "a.png") for _ in range(5)),
    ],
)
def test_limits_hold_before_the_form_ends(body: bytes) -> None:
    """The form is not even closed: the refusal comes while it streams in."""
    with pytest.raises(Problem) as caught:
        read(body, chunk=100)
    assert caught.value.error is Error.TOO_LARGE


def test_a_file_at_the_limit_passes() -> None:
    body = part("clip", b"x" * 1000, "a.mp4") + b"--b--"
    assert read(body, chunk=100).files["clip"] == [b"x" * 1000]
