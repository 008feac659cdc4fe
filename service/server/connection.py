"""One HTTP connection: uvicorn's protocol, with limits on time, work and memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.errors import Problem
from service.server import request_head
from service.server.client_watch import CAN_DETECT_RESET, ClientWatch
from service.server.connection_transport import ConnectionTransport
from service.server.connections import Connections
from service.server.limits import ConnectionLimits
from service.server.lingering import LingeringClose
from service.server.listener import disable_nagle, warn_near_file_limit
from service.server.problems import PROBLEM, head_too_late, malformed
from service.server.request_reader import Phase, RequestReader
from service.server.send_deadline import SendDeadline
from service.server.timers import Timers
from service.server.websocket_connection import WebSocketConnection

log = logging.getLogger("scmrl.http")


class Connection(HttpToolsProtocol):
    """One HTTP connection, with limits that uvicorn does not have.

    - Request headers that are slow, too large or malformed are answered with a problem document by
      `refuse`, an ASGI app that reads the problem under PROBLEM in the scope's state.
    - A body with broken framing raises its problem where the app reads the body.
    - Reading slows down for a client that sends many small pieces, or many requests before its
      earlier ones are answered (see ConnectionLimits).
    - A response sent before the end of the request's body closes the connection, after a short
      time in which what the client sends is dropped, so that it can read the response.
    - A connection whose client does not read the response is reset after `send_timeout_s`.
    - A client that closes its writing side after a request gets its response. A client that has
      gone altogether is detected by sending the first bytes of the response ahead: its kernel
      answers with a reset.
    - It becomes a WebSocket where the client asks to upgrade and `takes_websocket(path)` is true.
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
        takes_websocket: Callable[[str], bool],
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._takes_websocket = takes_websocket
        self._limits = limits
        self._open_connections = open_connections
        self._refuse = refuse
        self._timers = Timers(self.loop)
        self._reader = RequestReader(self, limits, self._take_over)
        self._running: RequestResponseCycle | None = None  # the last one that was begun
        self._body_problem: Problem | None = None  # raised where the app reads the body
        self._half_closed = False
        self._is_lost = False

    # --- the connection -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        sock = transport.get_extra_info("socket")
        disable_nagle(sock)
        warn_near_file_limit(sock.fileno())
        if not self._open_connections.add(self):
            self._is_lost = True
            transport.abort()
            return
        self._transport = ConnectionTransport(transport, self._close)
        self._sending = SendDeadline(
            self._transport, self._timers, self._limits.send_timeout_s, self._give_up_sending
        )
        self._lingering = LingeringClose(self._transport, self._timers, self._limits)
        self._watch = ClientWatch(
            self._transport, self._timers, lambda: self._in_flight,
            lambda: self._running is not None and not self._running.response_started,
        )  # fmt: skip
        super().connection_made(self._transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._open_connections.remove(self)
        self._timers.cancel_all()
        running = self._running
        if running is not None and not running.response_complete:  # uvicorn notifies `cycle` only
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)

    def evict(self) -> None:
        """Close an idle connection at once, for a new one."""
        self._transport.abort()

    def shutdown(self) -> None:
        if self._in_flight:
            self.cycle.keep_alive = False
        elif not self._lingering.has_begun or not self._transport.unsent_bytes:
            self._close_now()

    def timeout_keep_alive_handler(self) -> None:
        self._close_now()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether to keep the connection: its client may wait for a response."""
        ends_in_body = self._reader.phase is Phase.BODY
        if self._lingering.has_begun or ends_in_body or not self._in_flight or not CAN_DETECT_RESET:
            return False
        self._half_closed = True
        self.cycle.keep_alive = False
        self._watch.start()
        return True

    @property
    def _in_flight(self) -> bool:
        """Whether a request is being answered, or waits for that."""
        return self.cycle is not None and not self.cycle.response_complete

    # --- reading ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._reader.phase is Phase.STOPPED or self._transport.is_closing():
            self._lingering.drop(len(data))
            return
        self._reader.append(data)
        self._parse()

    def _parse(self) -> None:
        """Parse what has been received, as far as the budget of parser events allows.

        It stops behind a pipelined request: what follows that would have to be buffered until the
        requests before it are answered.
        """
        reader = self._reader
        while reader.has_unparsed and not self.pipeline and not self._transport.is_closing():
            wait_s = reader.wait_s()
            if wait_s:
                self._unset_keepalive_if_required()
                self._timers.start("parse", wait_s, self._parse)
                break
            try:
                reader.parse_slice()
            except Problem as problem:
                self._fail(problem)
            if reader.phase is Phase.HEAD and not self._in_flight:
                self._expect_head()
        if self._is_lost:  # a WebSocket has the connection
            return
        self._transport.throttle(reader.has_unparsed)
        if self.pipeline:
            self._watch.start()

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        if self._in_flight:
            self._reader.count_pipelined()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._timers.cancel("head")
        self._open_connections.set_idle(self, False)

    def _expect_head(self) -> None:
        if not self._timers.is_running("head"):
            self._timers.start("head", self._limits.head_timeout_s, self._head_is_late)

    def _take_over(self, rest: bytes) -> bool:
        """Become a WebSocket, with the bytes behind the head; return whether that is possible.

        Elsewhere, and behind a request that is still being answered, Upgrade is ignored (RFC 9110,
        section 7.8). Raises Problem for a handshake that RFC 6455 forbids.
        """
        version = self.parser.get_http_version()
        if self._in_flight or not request_head.asks_for_websocket(
            self.scope["method"], version, self.headers
        ):
            return False
        url = httptools.parse_url(self.url)
        if not self._takes_websocket(unquote(url.path.decode("ascii"))):
            return False
        fault = request_head.websocket_fault(self.headers)
        if fault is not None:
            raise malformed(fault)
        target = url.path + (b"?" + url.query if url.query else b"")
        self._become_websocket(request_head.write("GET", target, version, self.headers) + rest)
        return True

    def _become_websocket(self, data: bytes) -> None:
        """Hand the connection, and what has been received, over to a WebSocketConnection."""
        socket = WebSocketConnection(
            self.config, self.server_state, self.app_state,
            limits=self._limits, open_connections=self._open_connections,
        )  # fmt: skip
        self._is_lost = True  # for this object
        self._timers.cancel_all()
        self._unset_keepalive_if_required()
        self._open_connections.replace(self, socket)
        self.connections.discard(self)
        transport = self._transport.release()
        self.parser = None  # type: ignore[assignment]  # it refers back to this object
        socket.connection_made(transport)
        transport.set_protocol(socket)
        socket.data_received(data)

    def _head_is_late(self) -> None:
        if self._reader.phase is not Phase.HEAD:
            self._open_connections.count_ended("silent")
            self._close_now()
            return
        self._open_connections.count_ended("slow_head")
        self._fail(head_too_late(self._limits))

    # --- refusing -----------------------------------------------------------------------------

    def _fail(self, problem: Problem) -> None:
        """Stop parsing, and respond with the problem where a response can still be sent."""
        fails_in_body = self._reader.phase is Phase.BODY
        self._reader.stop()
        self._transport.throttle(False)
        if not self._in_flight:
            self._refuse_request(problem)
            return
        self.cycle.keep_alive = False
        if fails_in_body:
            self._body_problem = problem
            self.cycle.message_event.set()
        else:
            log.warning("a pipelined request was dropped: %s", problem.detail)

    def _refuse_request(self, problem: Problem) -> None:
        """Respond to a request whose headers could not be parsed."""
        self._timers.cancel("head")
        self._open_connections.set_idle(self, False)
        is_head = self._reader.head_problem is not None and self.scope.get("method") == "HEAD"
        self.on_message_begin()
        self.scope["method"] = "HEAD" if is_head else ""  # a response to HEAD has no body
        self.scope["path"], self.scope["raw_path"], self.scope["query_string"] = "", b"", b""
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

    # --- responding ---------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Run the app for one request, with hooks on what it receives and sends."""
        self._running = cycle

        async def hooked(scope: Scope, receive: Receive, send: Send) -> None:
            async def receive_or_fail() -> Message:
                message = await receive()
                if self._body_problem is not None and cycle.more_body:
                    raise self._body_problem
                return message

            async def send_corked(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self._begin_response(cycle)
                    await send(message)
                    return
                await send(message)
                self._transport.uncork()

            await app(scope, receive_or_fail, send_corked)

        super()._start_asgi_task(cycle, hooked)  # type: ignore[arg-type]

    def _begin_response(self, cycle: RequestResponseCycle) -> None:
        if cycle.more_body:  # the rest of it would have to be read before the next request
            cycle.keep_alive = False
        self._sending.begin_response()
        self._transport.cork()

    def on_response_complete(self) -> None:
        self._transport.uncork()
        self._sending.end_response()
        super().on_response_complete()
        if self._transport.is_closing():
            return
        if not self._in_flight:
            self._open_connections.set_idle(self, True)
            if self._reader.phase is Phase.HEAD:
                self._expect_head()
        if self._reader.has_unparsed:
            self._timers.start("parse", 0, self._parse)

    def pause_writing(self) -> None:
        self._sending.stall()
        super().pause_writing()

    def _give_up_sending(self) -> None:
        self._open_connections.count_ended("unread")
        log.warning(
            "connection reset: the client has not read a response within %g s "
            "(SCMRL_SEND_TIMEOUT_S)", self._limits.send_timeout_s,
        )  # fmt: skip
        self._transport.abort()

    # --- closing ------------------------------------------------------------------------------

    def _close(self) -> None:
        """Close after a response; linger, so that a client that is still sending can read it."""
        self._reader.discard()
        self._timers.cancel("head")
        self._timers.cancel("parse")
        if self._is_lost:
            return
        if self._half_closed:
            self._close_now()
            return
        self._open_connections.set_idle(self, True)
        self._lingering.begin()
        self._sending.end_response()

    def _close_now(self) -> None:
        """Close once what was written has been sent, or the send deadline has passed."""
        self._timers.cancel("head")
        self._transport.close_now()
        self._sending.end_response()
