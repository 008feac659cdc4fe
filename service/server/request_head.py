"""What a request's head must be, beyond what the parser checks.

llhttp, the parser, refuses Content-Length together with Transfer-Encoding, more than one of
either, line ends without a carriage return, folded header lines, and characters that RFC 9110 does
not allow in names and values. What it leaves to the server is here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import httptools

#: A host and a port, of the characters that RFC 3986 has for them. It may be empty.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(:[0-9]*)?")

Headers = Sequence[tuple[bytes, bytes]]


def fault(method: str, target: bytes, version: str, headers: Headers) -> str | None:
    """Why a head is refused, by RFC 9112; None where it is not. Header names are lowercase."""
    if version not in ("1.0", "1.1"):
        return f"HTTP/{version} is not spoken here; HTTP/1.1 is"
    if method == "CONNECT":
        return "CONNECT is for proxies; this is none"
    return _target_fault(target) or _host_fault(version, headers) or _coding_fault(version, headers)


def _target_fault(target: bytes) -> str | None:
    try:
        path = httptools.parse_url(target).path
    except httptools.HttpParserInvalidURLError:
        path = None
    if path is None or not path.startswith(b"/"):
        return "its target is neither a path nor an address with one"
    return None


def _host_fault(version: str, headers: Headers) -> str | None:
    hosts = [value.strip(b" \t") for name, value in headers if name == b"host"]
    if len(hosts) != 1 and (version == "1.1" or hosts):
        return f"a request has one Host header; this one has {len(hosts) or 'none'}"
    if hosts and not _HOST.fullmatch(hosts[0]):
        return "its Host header is not a host's name or address, with a port or without"
    return None


def _coding_fault(version: str, headers: Headers) -> str | None:
    codings = [v.strip(b" \t").lower() for name, v in headers if name == b"transfer-encoding"]
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
