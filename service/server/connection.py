"""One HTTP connection: uvicorn's protocol, with bounds on time, work and memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.errors import Problem
from service.server import request_head
from service.server.channel import Channel
from service.server.connections import Connections
from service.server.framing import Framing
from service.server.limits import ConnectionLimits
from service.server.lingering import Lingering
from service.server.listener import warn_where_files_run_out
from service.server.presence import CAN_TELL, ClientWatch
from service.server.problems import head_too_large, head_too_late, malformed
from service.server.send_deadline import SendLimit
from service.server.timers import Timers
from service.server.work_budget import Budget

log = logging.getLogger("scmrl.http")

#: Key of a scope's state for the problem that the server itself refuses a request with.
PROBLEM = "refusal"


class Connection(HttpToolsProtocol):
    """uvicorn's connection, and what it leaves open:

    - A head that is slow, too large or malformed is refused with a problem document, by `refuse`,
      an ASGI app that answers with the problem under PROBLEM in the scope's state.
    - A body whose framing is broken ends with that problem where the app reads it.
    - A client that sends many small pieces is read more slowly: see ConnectionLimits. So is one
      that sends requests before its last one is answered.
    - An answer given before the body's end closes the connection. What the client sends meanwhile
      is dropped for a short while, so that it can read the answer.
    - An answer that is not read is given up.
    - A client that closes its writing side after a request gets its answer; one that has gone
      altogether is told apart by the first bytes of the answer, sent ahead, which its kernel
      answers by a reset.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
        open_connections: Connections,
        refuse: ASGIApp,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._open_connections = open_connections
        self._refuse = refuse
        self._timers = Timers(self.loop)
        self._budget = Budget(limits.event_burst, limits.events_per_s)
        self._framing = Framing(limits.framing_bytes, limits.max_head_bytes)
        self._unparsed = memoryview(b"")
        self._running: RequestResponseCycle | None = None  # the last that was begun
        self._in_body = False
        self._in_head = False
        self._head_bytes = 0
        self._header_count = 0
        self._ignores_upgrade = False
        self._head_problem: Problem | None = None  # found in a callback of the parser
        self._body_problem: Problem | None = None  # for the app, where it reads the body
        self._is_broken = False  # nothing that comes is parsed any more
        self._half_closed = False
        self._is_lost = False

    # --- the connection -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # the client may have gone already
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        warn_where_files_run_out(sock.fileno())
        if not self._open_connections.add(self):
            self._is_lost = True
            transport.abort()
            return
        self._channel = Channel(transport, self._close)
        self._sending = SendLimit(
            self._channel, self._timers, self._limits.send_timeout_s, self._give_up_sending
        )
        self._lingering = Lingering(self._channel, self._timers, self._limits)
        self._watch = ClientWatch(
            self._channel, self._timers, lambda: self._in_flight, self._may_probe
        )
        super().connection_made(self._channel)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._open_connections.remove(self)
        self._timers.cancel_all()
        running = self._running
        if running is not None and not running.response_complete:  # uvicorn tells the last alone
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)

    def evict(self) -> None:
        """End an idle connection at once."""
        self._channel.abort()

    def shutdown(self) -> None:
        if self._in_flight:
            self.cycle.keep_alive = False
        elif not self._lingering.has_begun or not self._channel.unsent_bytes:
            self._close_now()

    def timeout_keep_alive_handler(self) -> None:
        self._close_now()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection of a client that waits for its answer."""
        ends_in_body = self._in_body and not self._is_broken
        if self._lingering.has_begun or ends_in_body or not self._in_flight or not CAN_TELL:
            return False
        self._half_closed = True
        self.cycle.keep_alive = False
        self._watch.start()
        return True

    @property
    def _in_flight(self) -> bool:
        """Whether a request has begun to be answered, or waits for that."""
        return self.cycle is not None and not self.cycle.response_complete

    def _may_probe(self) -> bool:
        return self._running is not None and not self._running.response_started

    # --- reading ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._is_broken or self._channel.is_closing():
            self._lingering.drop(len(data))
            return
        self._unparsed = memoryview(bytes(self._unparsed) + data if self._unparsed else data)
        self._parse()

    def _parse(self) -> None:
        """Parse what has come, as far as the budget of events allows.

        A request that waits for the one before it to be answered ends it as well: what comes
        behind would have to be kept.
        """
        while self._unparsed and not self.pipeline and not self._channel.is_closing():
            wait_s = self._budget.wait_s()
            if wait_s:
                self._unset_keepalive_if_required()
                self._timers.start("parse", wait_s, self._parse)
                break
            size = self._limits.slice_bytes
            piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            self._parse_piece(piece)
        self._channel.throttle(bool(self._unparsed))
        if self.pipeline:
            self._watch.start()

    def _parse_piece(self, piece: memoryview) -> None:
        self._count_event(len(piece))
        began_in_body = self._in_body
        self._head_bytes += 0 if began_in_body else len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as exc:
            self._on_upgrade(bytes(piece[exc.args[0] :]))
        except httptools.HttpParserError as exc:
            self._fail(self._head_problem or malformed(str(exc)))
            return
        if self._in_body:
            self._check_framing(len(piece) if began_in_body else 0)
        elif not began_in_body and self._head_bytes > self._limits.max_head_bytes:
            self._fail(head_too_large(self._limits))
        elif self._in_head and not self._in_flight:
            self._expect_head()

    def _count_event(self, size: int) -> None:
        if size < self._limits.bytes_per_event:
            self._budget.spend()

    def _check_framing(self, size: int) -> None:
        self._framing.add_piece(size)
        fault = self._framing.fault()
        if fault is not None:
            self._fail(malformed(fault))

    def _on_upgrade(self, rest: bytes) -> None:
        """Go on with a request that offers another protocol; `rest` follows its head.

        None is spoken here: the request is parsed again as if it did not offer one. A protocol for
        WebSockets would be handed the connection here, as HttpToolsProtocol does.
        """
        method = self.parser.get_method().decode("ascii")
        again = request_head.without_upgrade(
            method, self.url, self.parser.get_http_version(), self.headers
        )
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._ignores_upgrade = False
        self._unparsed = memoryview(again + rest + bytes(self._unparsed))
        self._head_bytes = 0

    # --- the parser's callbacks ---------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Called at a request's first byte; empty lines before it are none of its."""
        self._unset_keepalive_if_required()
        self._in_head = True
        self._header_count = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._budget.spend()
        self._header_count += 1
        if self._header_count > self._limits.max_headers:
            self._refuse_head(head_too_large(self._limits))
        if not self._in_body:  # else it is a trailer, which would pass for a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        method, version = self.parser.get_method().decode("ascii"), self.parser.get_http_version()
        self.scope["method"] = method
        fault = request_head.fault(method, self.url, version, self.headers)
        if fault is not None:
            self._refuse_head(malformed(fault))
        if self.parser.should_upgrade():
            self._ignores_upgrade = True
            return
        if version == "1.0":  # which has no interim responses
            self.expect_100_continue = False
        super().on_headers_complete()
        self._timers.cancel("head")
        self._in_head = False
        self._in_body = True
        self._framing.begin()
        self._open_connections.set_idle(self, False)

    def on_body(self, body: bytes) -> None:
        self._count_event(len(body))
        self._framing.add_content(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._ignores_upgrade:
            return
        self._in_body = False
        self._head_bytes = 0
        super().on_message_complete()

    def _refuse_head(self, problem: Problem) -> None:
        """Raises ValueError, which ends the parser."""
        self._head_problem = problem
        raise ValueError(problem.detail)

    # --- the head's time ----------------------------------------------------------------------

    def _expect_head(self) -> None:
        if not self._timers.is_running("head"):
            self._timers.start("head", self._limits.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        if not self._in_head:
            self._open_connections.end("silent")
            self._close_now()
            return
        self._open_connections.end("slow_head")
        self._fail(head_too_late(self._limits))

    # --- refusing -----------------------------------------------------------------------------

    def _fail(self, problem: Problem) -> None:
        """Parse no more, and answer with the problem, where an answer can be given still."""
        self._is_broken = True
        self._unparsed = memoryview(b"")
        self._channel.throttle(False)
        if not self._in_flight:
            self._answer(problem)
            return
        self.cycle.keep_alive = False
        if self._in_body:
            self._body_problem = problem
            self.cycle.message_event.set()
        else:
            log.warning("a request behind another one was dropped: %s", problem.detail)

    def _answer(self, problem: Problem) -> None:
        """Answer a request that was not understood."""
        self._timers.cancel("head")
        self._open_connections.set_idle(self, False)
        is_head = self._head_problem is not None and self.scope.get("method") == "HEAD"
        self.on_message_begin()
        self.scope["method"] = "HEAD" if is_head else ""  # whose answer has no body
        self.scope["path"] = ""
        self.scope["raw_path"] = self.scope["query_string"] = b""
        self.scope["state"][PROBLEM] = problem
        self.cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        self._start_asgi_task(self.cycle, self._refuse)

    # --- answering ----------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Run the app for one request, with what it receives and sends seen here."""
        self._running = cycle

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            async def receive_or_fail() -> Message:
                message = await receive()
                if self._body_problem is not None and cycle.more_body:
                    raise self._body_problem
                return message

            async def send_joined(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self._begin_answer(cycle)
                    await send(message)
                    return
                await send(message)
                self._channel.uncork()

            await app(scope, receive_or_fail, send_joined)

        super()._start_asgi_task(cycle, watched)  # type: ignore[arg-type]

    def _begin_answer(self, cycle: RequestResponseCycle) -> None:
        if cycle.more_body:  # what is left of it would have to be read before the next request
            cycle.keep_alive = False
        self._sending.begin_answer()
        self._channel.cork()

    def on_response_complete(self) -> None:
        self._channel.uncork()
        self._sending.end_answer()
        super().on_response_complete()
        if self._channel.is_closing():
            return
        if not self._in_flight:
            self._open_connections.set_idle(self, True)
            if self._in_head:
                self._expect_head()
        if self._unparsed:
            self._timers.start("parse", 0, self._parse)

    def pause_writing(self) -> None:
        self._sending.stall()
        super().pause_writing()

    def _give_up_sending(self) -> None:
        self._open_connections.end("unread")
        log.warning(
            "an answer was given up: its client has not read it within %g s "
            "(SCMRL_SEND_TIMEOUT_S)", self._limits.send_timeout_s,
        )  # fmt: skip
        self._channel.abort()

    # --- closing ------------------------------------------------------------------------------

    def _close(self) -> None:
        """Close behind an answer. A client that may be sending still can read the answer."""
        self._unparsed = memoryview(b"")
        self._timers.cancel("head")
        self._timers.cancel("parse")
        if self._is_lost:
            return
        if self._half_closed:
            self._close_now()
            return
        self._open_connections.set_idle(self, True)
        self._lingering.begin()
        self._sending.end_answer()

    def _close_now(self) -> None:
        """Close once what was written has been sent, or has not been read in its time."""
        self._timers.cancel("head")
        self._channel.close_now()
        self._sending.end_answer()
