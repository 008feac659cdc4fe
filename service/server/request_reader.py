"""Parsing of requests, with limits on their heads, their framing and the work they cause."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import Problem
from service.runtime.token_bucket import TokenBucket
from service.server import request_head
from service.server.body_framing import BodyFraming
from service.server.limits import ConnectionLimits
from service.server.problems import head_too_large, malformed

#: The first bytes of a TLS connection: a record of a handshake, version 3.x (RFC 8446, 5.1).
_TLS_HANDSHAKE = b"\x16\x03"
_TLS = "it begins with a TLS handshake; use http://, or put a TLS proxy in front of the service"


class Phase(Enum):
    """Where in a request the parser is.

        IDLE ──first byte──▶ HEAD ──end of the head──▶ BODY ──end of the body──▶ IDLE
        any phase ──stop──▶ STOPPED

    A request without a body passes through BODY as well.
    """

    IDLE = "between two requests"
    HEAD = "in a head"
    BODY = "in a body"
    STOPPED = "nothing is parsed any more"


class RequestReader:
    """Buffers and parses what a client sends, and calls uvicorn's `protocol` with the result.

    Parser events and reads that carry few bytes, and pipelined requests, are counted (see
    ConnectionLimits); the caller waits `wait_s` before it calls `parse_slice`.

    `take_over` is called with the bytes after a head that asks to upgrade to another protocol. It
    returns whether the connection switches to it, or raises Problem; if not, Upgrade is ignored.
    """

    def __init__(
        self,
        protocol: HttpToolsProtocol,
        limits: ConnectionLimits,
        take_over: Callable[[bytes], bool],
    ) -> None:
        self._protocol = protocol
        self._take_over = take_over
        self._limits = limits
        self.phase = Phase.IDLE
        self._events = TokenBucket(limits.event_burst, limits.events_per_s)
        self._reads = TokenBucket(limits.read_burst, limits.reads_per_s)
        self._pipelined = TokenBucket(limits.pipelined_burst, limits.pipelined_per_s)
        #: Why the last head was refused; its method is known then.
        self.head_problem: Problem | None = None
        self._framing = BodyFraming(limits.framing_bytes, limits.max_head_bytes)
        self._unparsed = memoryview(b"")
        self._head_bytes = 0
        self._header_count = 0
        self._is_at_upgrade = False
        self._reset_parser()

    @property
    def has_unparsed(self) -> bool:
        return bool(self._unparsed)

    def append(self, data: bytes) -> None:
        """Buffer received bytes."""
        if len(data) < self._limits.bytes_per_event and self.phase in (Phase.HEAD, Phase.BODY):
            self._reads.spend()
        self._unparsed = memoryview(bytes(self._unparsed) + data if self._unparsed else data)

    def count_pipelined(self) -> None:
        """Count a request that begins before an earlier one is answered."""
        self._pipelined.spend()

    def wait_s(self) -> float:
        """Return the seconds until what was counted allows another slice."""
        return max(self._events.wait_s(), self._reads.wait_s(), self._pipelined.wait_s())

    def discard(self) -> None:
        """Drop buffered bytes."""
        self._unparsed = memoryview(b"")

    def stop(self) -> None:
        """Parse nothing any more."""
        self.phase = Phase.STOPPED
        self.discard()

    def parse_slice(self) -> None:
        """Parse the next `slice_bytes` of the buffer.

        Raises Problem where they are malformed or beyond a limit.
        """
        size = self._limits.slice_bytes
        piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
        self._count_event(len(piece))
        began_in_body = self.phase is Phase.BODY
        self._head_bytes += 0 if began_in_body else len(piece)
        try:
            self._protocol.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as exc:
            self._end_at_upgrade(bytes(piece[exc.args[0] :]))
            if self.phase is Phase.STOPPED:
                return
        except httptools.HttpParserError as exc:
            is_tls = not began_in_body and bytes(piece[:2]) == _TLS_HANDSHAKE
            reason = _TLS if is_tls else str(exc)
            raise (self.head_problem or malformed(reason)) from None
        if self.phase is Phase.BODY:
            self._check_framing(len(piece) if began_in_body else 0)
        elif not began_in_body and self._head_bytes > self._limits.max_head_bytes:
            raise head_too_large(self._limits)

    # --- callbacks of the parser --------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request at its first byte; empty lines before it do not count."""
        self.phase = Phase.HEAD
        self._header_count = 0
        self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._events.spend()
        self._header_count += 1
        if self._header_count > self._limits.max_headers:
            self._refuse_head(head_too_large(self._limits))
        if self.phase is not Phase.BODY:  # there it is a trailer, which must not pass for a header
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        protocol = self._protocol
        method = protocol.parser.get_method().decode("ascii")
        version = protocol.parser.get_http_version()
        protocol.scope["method"] = method
        fault = request_head.fault(method, protocol.url, version, protocol.headers)
        if fault is not None:
            self._refuse_head(malformed(fault))
        if protocol.parser.should_upgrade():
            self._is_at_upgrade = True
            return
        if version == "1.0":  # which has no interim responses
            protocol.expect_100_continue = False
        protocol.on_headers_complete()
        self.phase = Phase.BODY
        self._framing.begin()

    def on_body(self, body: bytes) -> None:
        self._count_event(len(body))
        self._framing.add_content(len(body))
        self._protocol.on_body(body)

    def on_message_complete(self) -> None:
        if self._is_at_upgrade:
            return
        self.phase = Phase.IDLE
        self._head_bytes = 0
        self._protocol.on_message_complete()

    # ------------------------------------------------------------------------------------------

    def _refuse_head(self, problem: Problem) -> None:
        """Raises ValueError, which stops the parser."""
        self.head_problem = problem
        raise ValueError(problem.detail)

    def _count_event(self, size: int) -> None:
        if size < self._limits.bytes_per_event:
            self._events.spend()

    def _check_framing(self, size: int) -> None:
        """Raises Problem."""
        self._framing.add_piece(size)
        fault = self._framing.fault()
        if fault is not None:
            raise malformed(fault)

    def _end_at_upgrade(self, rest: bytes) -> None:
        """Let another protocol take over after a head that asks for it, or ignore Upgrade.

        `rest` follows the head in the piece that was parsed. Raises Problem.
        """
        if self._head_bytes - len(rest) > self._limits.max_head_bytes:
            raise head_too_large(self._limits)
        if self._take_over(rest + bytes(self._unparsed)):
            self.stop()
        else:
            self._ignore_upgrade(rest)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the head again, without its Upgrade header."""
        protocol = self._protocol
        method = protocol.parser.get_method().decode("ascii")
        head = request_head.without_upgrade(
            method, protocol.url, protocol.parser.get_http_version(), protocol.headers
        )
        self._reset_parser()
        self._is_at_upgrade = False
        self._unparsed = memoryview(head + rest + bytes(self._unparsed))
        self._head_bytes = 0

    def _reset_parser(self) -> None:
        # The protocol owns it, and drops it with the connection: it refers back to this object.
        self._protocol.parser = httptools.HttpRequestParser(self)
        self._protocol.parser.set_dangerous_leniencies(lenient_data_after_close=True)
