"""Checks of a request's head (request line and headers) beyond those of the parser.

llhttp, the parser, refuses Content-Length together with Transfer-Encoding, more than one of
either, line ends without a carriage return, folded header lines, and characters that RFC 9110 does
not allow in names and values. The rest is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import httptools

#: A host and a port, of the characters that RFC 3986 has for them. It may be empty.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(:[0-9]*)?")

#: 16 bytes in base64: the last of 22 digits has 4 of its 6 bits unused.
_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
#: Largest header that the library websockets parses, in bytes, without colon, space and line end.
_MAX_WEBSOCKET_LINE = 8188

Headers = Sequence[tuple[bytes, bytes]]


def fault(method: str, target: bytes, version: str, headers: Headers) -> str | None:
    """Return why RFC 9112 forbids a head, or None. Header names have to be in lower case."""
    if version not in ("1.0", "1.1"):
        return f"HTTP/{version} is not supported; use HTTP/1.1"
    if method == "CONNECT":
        return "CONNECT is not supported, as this is not a proxy"
    return _target_fault(target) or _host_fault(version, headers) or _coding_fault(version, headers)


def _target_fault(target: bytes) -> str | None:
    try:
        path = httptools.parse_url(target).path
    except httptools.HttpParserInvalidURLError:
        path = None
    if path is None or not path.startswith(b"/"):
        return "its target is neither a path nor a URL with a path"
    return None


def _host_fault(version: str, headers: Headers) -> str | None:
    hosts = [value.strip(b" \t") for name, value in headers if name == b"host"]
    if len(hosts) != 1 and (version == "1.1" or hosts):
        return f"it has {len(hosts) or 'no'} Host headers; exactly one is required"
    if hosts and not _HOST.fullmatch(hosts[0]):
        return "its Host header is not a host name or address with an optional port"
    return None


def _coding_fault(version: str, headers: Headers) -> str | None:
    codings = [v.strip(b" \t").lower() for name, v in headers if name == b"transfer-encoding"]
    if codings and version == "1.0":
        return "HTTP/1.0 has no Transfer-Encoding"
    if codings and codings != [b"chunked"]:
        return "the only supported transfer coding is chunked"
    return None


def asks_for_websocket(method: str, version: str, headers: Headers) -> bool:
    """Return whether a head asks to upgrade to a WebSocket (RFC 6455), and no body follows it."""
    upgrades, connections, lengths = (
        [token.strip(b" \t").lower() for n, v in headers if n == name for token in v.split(b",")]
        for name in (b"upgrade", b"connection", b"content-length")
    )
    has_body = any(n == b"transfer-encoding" for n, _ in headers) or set(lengths) - {b"0"}
    is_offer = b"websocket" in upgrades and b"upgrade" in connections
    return (method, version) == ("GET", "1.1") and is_offer and not has_body


def websocket_fault(headers: Headers) -> str | None:
    """Return why RFC 6455 forbids the head of a WebSocket handshake, or None."""
    keys, versions = (
        [value.strip(b" \t") for n, value in headers if n == name]
        for name in (b"sec-websocket-key", b"sec-websocket-version")
    )
    if versions != [b"13"]:
        return "its Sec-WebSocket-Version is not 13"
    if len(keys) != 1 or not _WEBSOCKET_KEY.fullmatch(keys[0]):
        return "its Sec-WebSocket-Key is not 16 bytes in base64"
    if any(len(name) + len(value) > _MAX_WEBSOCKET_LINE for name, value in headers):
        return f"a header of its WebSocket handshake has more than {_MAX_WEBSOCKET_LINE} bytes"
    return None


def write(method: str, url: bytes, version: str, headers: Headers) -> bytes:
    """Return a head as bytes."""
    lines = [b"%s %s HTTP/%s" % (method.encode(), url, version.encode())]
    lines += [b"%s: %s" % (name, value) for name, value in headers]
    return b"\r\n".join([*lines, b"", b""])


def without_upgrade(method: str, url: bytes, version: str, headers: Headers) -> bytes:
    """Return the head of a request without its Upgrade header.

    A server may ignore Upgrade (RFC 9110, section 7.8), but llhttp stops at such a head.
    """
    return write(method, url, version, [(n, value) for n, value in headers if n != b"upgrade"])
