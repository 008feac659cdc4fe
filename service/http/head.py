"""What a request's head must be, beyond what the parser checks.

llhttp, the parser, refuses Content-Length together with Transfer-Encoding, more than one of
either, line ends without a carriage return, folded header lines, and characters that RFC 9110 does
not allow in names and values. What it leaves to the server is here.
"""

from __future__ import annotations

from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]


def fault(method: str, version: str, headers: Headers) -> str | None:
    """Why a head is refused, by RFC 9112; None where it is not. Header names are lowercase."""
    if version not in ("1.0", "1.1"):
        return f"HTTP/{version} is not spoken here; HTTP/1.1 is"
    if method == "CONNECT":
        return "CONNECT is for proxies; this is none"
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts != 1 and (version == "1.1" or hosts):
        return f"a request has one Host header; this one has {hosts or 'none'}"
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and version == "1.0":
        return "HTTP/1.0 has no Transfer-Encoding"
    if codings and codings != [b"chunked"]:
        return "of transfer codings only chunked is read here"
    return None


def without_upgrade(method: str, url: bytes, version: str, headers: Headers) -> bytes:
    """The head as it would be if the client had not offered another protocol.

    RFC 9110, 7.8: a server may ignore Upgrade. llhttp cannot: it ends at such a head.
    """
    lines = [b"%s %s HTTP/%s" % (method.encode(), url, version.encode())]
    lines += [b"%s: %s" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
