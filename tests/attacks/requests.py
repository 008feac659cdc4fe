"""Requests as bytes: an attack must not depend on what a client library would send."""

from __future__ import annotations

from tests.conftest import ROOT

GOOD = ROOT / "tests" / "data" / "clips" / "digit-7.webm"


def head_of_form(framing: str) -> bytes:
    """The request line and headers of a form; `framing` is the header that bounds its body."""
    lines = [
        "POST /v1/classify HTTP/1.1",
        "Host: x",
        "Content-Type: multipart/form-data; boundary=B",
        framing,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def clip_request(clip: bytes, **fields: str) -> bytes:
    """A whole request that uploads a clip."""
    parts = [
        f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = b'--B\r\nContent-Disposition: form-data; name="clip"; filename="clip"\r\n\r\n'
    body = b"".join([*parts, head, clip, b"\r\n--B--\r\n"])
    return head_of_form(f"Content-Length: {len(body)}") + body
