"""The streaming form reader: what it accepts, what it refuses, and when."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Error, Problem
from service.http.multipart_body import Form, FormFields, check_encoding, read_form
from tests.service.conftest import CLIPS

MAX_FILE_BYTES, MAX_PARTS = 1000, 4
FIELDS = FormFields({"clip": MAX_FILE_BYTES, "frames": MAX_FILE_BYTES}, {"steps": "integer"})
MULTIPART = "multipart/form-data; boundary=b"


def part(name: str, content: bytes, filename: str | None = None, kind: str = "") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    kind = f"Content-Type: {kind}\r\n" if kind else ""
    return f"--b\r\n{disposition}\r\n{kind}\r\n".encode() + content + b"\r\n"


def headed(headers: str, content: bytes) -> bytes:
    """A whole form of one part with these lines of header."""
    lines = "\r\n".join(headers.splitlines())
    return f"--b\r\n{lines}\r\n\r\n".encode() + content + b"\r\n--b--\r\n"


def refused(body: bytes, content_type: str | None = MULTIPART) -> Problem:
    with pytest.raises(Problem) as caught:
        read(body, content_type)
    return caught.value


def read(
    body: bytes,
    content_type: str | None = MULTIPART,
    chunk: int = 65536,
    fields: FormFields = FIELDS,
) -> Form:
    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), chunk):
            yield body[start : start + chunk]

    return asyncio.run(read_form(content_type, stream(), fields, MAX_PARTS))


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


#: Binary, as every media file is, though its first bytes are letters.
MEDIA = b"RIFF\x24\0\0\0WAVEfmt " + bytes(range(256))
NAMED = 'Content-Disposition: form-data; name="clip"; filename="a.mp4"'


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Disposition: form-data; name=\"clip\"; filename*=UTF-8''%D0%A1%D0%BD.webm",
        "Content-Disposition: form-data; name=clip; filename*=utf-8'en'a.webm",
        "Content-Disposition: form-data; name=\"clip\"; filename*=klingon-1''a%ff.webm",
        'Content-Disposition: form-data; name="clip"; filename*0="a"; filename*1=".webm"',
        "Content-Disposition: form-data; name*=UTF-8''%63lip; filename=\"a.webm\"",
        "Content-Disposition: form-data; name*=hex''clip; filename=a",
        "content-disposition:form-data;NAME=clip;FileName=a b.webm",
        "CONTENT-DISPOSITION: \t form-data ;\tname = clip ; filename = a.webm ",
        'Content-Disposition: form-data; filename="C:\\dir\\"; name="clip"',
        'Content-Disposition: form-data; filename="a;name=steps;.webm"; name="clip"',
        'Content-Disposition: form-data; filename="a\\"; name=steps.webm"; name="clip"',
        'Content-Disposition: form-data; name="clip"; filename="a"b.webm"',
        'Content-Disposition: form-data; name="clip"; filename="../../Сн.webm"',
        'Content-Disposition: form-data; name="clip"; filename=""',
        'Content-Disposition: attachment; name="clip"; filename="a.webm"',
        f"{NAMED}\nContent-Type: video/webm;codecs=vp8,opus",
        f"{NAMED}\nContent-Type: Text/Plain; charset=klingon-1",
        f"{NAMED}\nContent-Type: ;;;",
        f"{NAMED}\nContent-Encoding: Identity",
        f"{NAMED}\nContent-Transfer-Encoding: BINARY ",
        f"{NAMED}\nContent-Transfer-Encoding: 8bit\nContent-Length: 272\nMIME-Version: 1.0",
        'Content-Disposition: form-data; name="clip"\nContent-Type: video/webm',
        'Content-Type: application/octet-stream\nContent-Disposition: form-data; name="clip"',
        'Content-Disposition: form-data; name="clip"',
        'Content-Disposition: form-data; name="clip"\nContent-Type: text/plain; charset=utf-8',
    ],
)
@pytest.mark.parametrize("chunk", [1, 65536])
def test_a_file_is_read_however_its_part_is_headed(headers: str, chunk: int) -> None:
    form = read(headed(headers, MEDIA), chunk=chunk)
    assert form == Form(files={"clip": [MEDIA]})


WRITTEN = {
    "base64 in lines": ("base64", base64.encodebytes),
    "base64 in one line": ("Base64", base64.b64encode),
    "base64 without padding": ("base64", lambda data: base64.b64encode(data).rstrip(b"=")),
    # As text it would write each line end as the first one, and so lose some.
    "quoted-printable": ("quoted-printable", partial(binascii.b2a_qp, istext=False)),
    "quoted-printable, CRLF": (
        " Quoted-Printable",
        lambda data: b"".join(b"=%02X" % byte + b"=\r\n" * (byte == 10) for byte in data),
    ),
}


@pytest.mark.parametrize("how", WRITTEN)
@given(content=st.binary(min_size=1, max_size=300), chunk=st.integers(1, 400))
@settings(max_examples=30)
def test_a_part_that_is_encoded_for_mail_is_decoded(how: str, content: bytes, chunk: int) -> None:
    encoding, encode = WRITTEN[how]
    headers = f"{NAMED}\nContent-Transfer-Encoding: {encoding}"
    form = read(headed(headers, encode(b"\0" + content)), chunk=chunk)
    assert form.files == {"clip": [b"\0" + content]}


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("base64", MEDIA),
        ("base64", b"AAA=AAAA"),
        ("base64", b"AAA==="),
        ("base64", b"AAAAA"),
        ("quoted-printable", b"a=zz"),
        ("quoted-printable", b"a=4"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 65536])
def test_a_part_that_is_not_encoded_as_it_says_is_400(
    encoding: str, content: bytes, chunk: int
) -> None:
    headers = f"{NAMED}\nContent-Transfer-Encoding: {encoding}"
    with pytest.raises(Problem) as caught:
        read(headed(headers, content), chunk=chunk)
    problem = caught.value
    assert (problem.error, problem.field) == (Error.UNREADABLE_FORM, "clip")
    assert encoding in problem.detail


def test_a_limit_is_of_what_is_decoded() -> None:
    headers = f"{NAMED}\nContent-Transfer-Encoding: base64"
    content = bytes(MAX_FILE_BYTES)
    body = headed(headers, base64.encodebytes(content))
    assert read(body, chunk=100).files == {"clip": [content]}
    problem = refused(headed(headers, base64.encodebytes(content + b"1")))
    assert problem.error is Error.TOO_LARGE


@pytest.mark.parametrize(
    ("headers", "error", "message"),
    [
        (f"{NAMED}\nContent-Encoding: gzip", Error.UNSUPPORTED_ENCODING, "gzip"),
        (f"{NAMED}\nContent-Transfer-Encoding: x-uuencode", Error.UNSUPPORTED_ENCODING, "uuenc"),
        (f"{NAMED}\nContent-Type: multipart/mixed; boundary=c", Error.INVALID_FIELD, "repeated"),
        ('Content-Disposition: form-data; name="steps"; filename="4"', Error.INVALID_FIELD, "file"),
        (
            'Content-Disposition: form-data; name="steps"\nContent-Type: text/plain; charset=hex',
            Error.INVALID_FIELD,
            "charset=hex",
        ),
    ],
)
def test_what_a_part_cannot_be_is_refused_by_name(headers: str, error: Error, message: str) -> None:
    """However long it is."""
    for content in (b"4", b"4" * (1000 if "hex" in headers else 2000)):
        problem = refused(headed(headers, content))
        assert problem.error is error
        assert problem.field in ("clip", "steps")
        assert message in problem.detail


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", "us-ascii", "ISO-8859-1", '"utf-16"'])
def test_a_value_is_read_in_the_encoding_that_its_part_names(charset: str) -> None:
    kind = f"text/plain; charset={charset}"
    headers = f'Content-Disposition: form-data; name="steps"\nContent-Type: {kind}'
    body = headed(headers, "4".encode(charset.strip('"')))
    assert read(body).values == {"steps": ["4"]}


def test_a_value_may_have_a_media_type() -> None:
    headers = 'Content-Disposition: form-data; name="steps"\nContent-Type: application/octet-stream'
    assert read(headed(headers, b"4")).values == {"steps": ["4"]}


@pytest.mark.parametrize("repeat", [1, 50], ids=["short", "over every limit"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"data:video/webm;base64," + base64.b64encode(MEDIA), "a data URL"),
        (b"\r\n DATA:,hello" * 9, "a data URL"),
        (base64.b64encode(MEDIA), "base64 text"),
        (base64.encodebytes(MEDIA), "base64 text"),
        (base64.urlsafe_b64encode(MEDIA), "base64 text"),
        (b"https://example.org/a.mp4", "a URL"),
        (b'{"type": "Buffer", "data": [1, 2]}', "JSON"),
        (b"[object File]", "text"),
        ("Сн.webm".encode(), "text"),
    ],
)
def test_text_in_place_of_a_file_is_called_what_it_is(
    content: bytes, what: str, repeat: int
) -> None:
    problem = refused(headed('Content-Disposition: form-data; name="clip"', content * repeat))
    assert (problem.error, problem.field) == (Error.INVALID_FIELD, "clip")
    assert f"was sent as {what}, not as a file" in problem.detail
    assert "@FILE" in problem.detail


@pytest.mark.parametrize("content", [b"data:;base64,AAAA", base64.encodebytes(MEDIA)])
def test_a_file_that_holds_an_encoded_one_is_called_that(content: bytes) -> None:
    problem = refused(headed(NAMED, content))
    assert (problem.error, problem.field) == (Error.INVALID_FIELD, "clip")


@pytest.mark.parametrize("content", [b"P2\n2\n2\n255\n0\n0\n0\n0\n", b"Dear diary, " * 9])
def test_a_file_of_text_is_left_to_who_knows_media(content: bytes) -> None:
    assert read(headed(NAMED, content)).files == {"clip": [content]}


def test_real_clips_are_never_taken_for_text() -> None:
    fields = FormFields({"clip": 1 << 26}, {})
    headers = 'Content-Disposition: form-data; name="clip"'
    for file in sorted(CLIPS.iterdir()):
        content = file.read_bytes()
        assert read(headed(headers, content), fields=fields).files == {"clip": [content]}


@pytest.mark.parametrize("encodings", [[], [""], ["identity"], ["Identity, identity"]])
def test_a_body_without_an_encoding_is_taken(encodings: list[str]) -> None:
    check_encoding(encodings)


@pytest.mark.parametrize(
    "encodings", [["gzip"], ["x-gzip"], ["identity, br"], ["identity", "zstd"], ["deflate"]]
)
def test_a_compressed_body_is_refused_by_its_encoding(encodings: list[str]) -> None:
    with pytest.raises(Problem) as caught:
        check_encoding(encodings)
    assert caught.value.error is Error.UNSUPPORTED_ENCODING
    assert re.search("gzip|br|zstd|deflate", caught.value.detail)


NAMES = st.sampled_from(["name", "NAME", "name*", "filename", "filename*", "filename*0", "x"])
VALUES = st.sampled_from(["clip", '"clip"', '"steps"', "UTF-8''clip", '"a;b\\"c"', '""', "", '"'])
OTHERS = st.sampled_from(
    ["Content-Type", "content-type", "Content-Encoding", "Content-Transfer-Encoding", "X"]
)
TOKENS = st.sampled_from(
    ["text/plain", "text/plain; charset=utf-16", "video/mp4", "multipart/mixed; boundary=c",
     "gzip", "identity", "base64", "quoted-printable", "binary", "", ";", "hex; charset=hex"]
)  # fmt: skip


@given(
    parameters=st.lists(st.tuples(NAMES, st.sampled_from(["=", " = ", ""]), VALUES), max_size=4),
    others=st.lists(st.tuples(OTHERS, TOKENS | st.text(max_size=20)), max_size=3),
    content=st.sampled_from([b"", b"4", b"data:,", MEDIA, b"QUJD", b"=41=\r\n", MEDIA * 8]),
    chunk=st.integers(1, 200),
)
@settings(max_examples=300)
def test_a_part_is_read_or_refused_whatever_its_headers(
    parameters: list[tuple[str, str, str]],
    others: list[tuple[str, str]],
    content: bytes,
    chunk: int,
) -> None:
    """A refusal names the field, but where the part has none, and is of a limit only where what
    came is over it."""
    disposition = "".join(f"; {name}{equals}{value}" for name, equals, value in parameters)
    lines = [f"Content-Disposition: form-data{disposition}"]
    lines += [f"{name}: {''.join(value.split())}" for name, value in others]
    form, problem = attempt(headed("\n".join(lines), content), chunk)
    assert set(form.files) <= {"clip"}
    assert set(form.values) <= {"steps"}
    if problem is not None and problem.error is Error.TOO_LARGE:
        assert len(content) > MAX_FILE_BYTES
    elif problem is not None and problem.error is not Error.UNREADABLE_FORM:
        assert problem.field is not None


def attempt(body: bytes, chunk: int) -> tuple[Form, Problem | None]:
    """The form, empty where it was refused, and the refusal."""
    try:
        return read(body, chunk=chunk), None
    except Problem as problem:
        return Form(), problem
