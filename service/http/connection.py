"""One HTTP connection: uvicorn's protocol, with bounds on time, work and memory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.errors import Error, Problem
from service.http import head
from service.http.budget import EventBudget
from service.http.channel import Channel
from service.http.connections import Connections
from service.http.limits import ConnectionLimits

#: Key of a scope's state for the problem that the server itself refuses a request with.
PROBLEM = "refusal"

#: Seconds between two looks at whether a client that half-closed its connection is still there.
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.02, 1.0
#: tcpi_state of a connection that was reset, in Linux's struct tcp_info.
_TCP_CLOSE = 7


class Connection(HttpToolsProtocol):
    """uvicorn's connection, and what it leaves open:

    - A head that is slow, too large or malformed is refused with a problem document, by `refuse`,
      an ASGI app that answers with the problem under PROBLEM in the scope's state.
    - A body whose framing is broken ends with that problem where the app reads it.
    - A client that sends many small pieces is read more slowly: see ConnectionLimits.
    - An answer given before the body's end closes the connection. What the client sends meanwhile
      is dropped for a short while, so that it can read the answer.
    - An answer that is not read is given up.
    - A client that closes its writing side after a request gets its answer; one that has gone
      altogether is told apart by an interim response, which resets its connection.
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
        self._budget = EventBudget(limits.event_burst, limits.events_per_s)
        self._unparsed = b""
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._timers: list[asyncio.TimerHandle] = []  # that end with the connection
        self._in_body = False
        self._head_bytes = 0
        self._header_count = 0
        self._body_bytes = 0  # as sent, framing included
        self._content_bytes = 0
        self._ignores_upgrade = False
        self._head_problem: Problem | None = None  # found in a callback of the parser
        self._body_problem: Problem | None = None  # for the app, where it reads the body
        self._is_broken = False  # nothing that comes is parsed any more
        self._linger_bytes_left: int | None = None
        self._half_closed = False
        self._is_lost = False

    # --- the connection -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._open_connections.add(self):
            self._is_lost = True
            transport.abort()
            return
        self._channel = Channel(transport, self._close)
        super().connection_made(self._channel)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._open_connections.remove(self)
        self._cancel_head_timer()
        self._cancel_send_timer()
        for timer in self._timers:
            timer.cancel()
        super().connection_lost(exc)

    def evict(self) -> None:
        """End an idle connection at once."""
        self._channel.abort()

    def shutdown(self) -> None:
        if self._linger_bytes_left is not None:
            self._channel.abort()
        else:
            super().shutdown()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection of a client that waits for its answer."""
        if self._linger_bytes_left is not None or self._in_body or not self._in_flight:
            return False
        if not hasattr(socket, "TCP_INFO"):
            return False  # whether the client is still there cannot be seen
        if not self._half_closed:
            self._half_closed = True
            self.cycle.keep_alive = False
            if not self.cycle.response_started and self.scope["http_version"] == "1.1":
                self._channel.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._after(_FIRST_LOOK_S, self._look_for_client, _FIRST_LOOK_S)
        return True

    def _look_for_client(self, waited_s: float) -> None:
        """End the work for a client whose kernel has answered the interim response by a reset."""
        sock = self._channel.get_extra_info("socket")
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
            self._channel.abort()
        elif self._in_flight:
            wait_s = min(2 * waited_s, _LONGEST_LOOK_S)
            self._after(wait_s, self._look_for_client, wait_s)

    @property
    def _in_flight(self) -> bool:
        """Whether a request has begun to be answered, or waits for that."""
        return self.cycle is not None and not self.cycle.response_complete

    def _after(self, seconds: float, do: Callable[..., None], *arguments: object) -> None:
        """Call it later, unless the connection is lost before."""
        now = self.loop.time()
        self._timers = [t for t in self._timers if not t.cancelled() and t.when() > now]
        self._timers.append(self.loop.call_later(seconds, do, *arguments))

    # --- reading ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._is_broken or self._linger_bytes_left is not None:
            self._drop(len(data))
            return
        self._unset_keepalive_if_required()
        self._unparsed += data
        self._parse()

    def _parse(self) -> None:
        """Parse what has come, as far as the connection's budget of events allows."""
        while self._unparsed and not self._is_broken and not self._channel.is_closing():
            wait_s = self._budget.wait_s()
            if wait_s:
                self._channel.throttle(True)
                self._after(wait_s, self._parse)
                return
            size = self._limits.slice_bytes
            piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            self._parse_piece(piece)
        self._channel.throttle(False)

    def _parse_piece(self, piece: bytes) -> None:
        self._count_event(len(piece))
        began_in_body = self._in_body
        if not began_in_body and not self._in_flight:
            self._expect_head()
        self._head_bytes += 0 if began_in_body else len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as exc:
            self._go_on_without_upgrade(piece[exc.args[0] :])
        except httptools.HttpParserError as exc:
            self._fail(self._head_problem or _malformed(str(exc)))
            return
        if self._in_body:
            self._body_bytes += len(piece) if began_in_body else 0
            self._check_framing()
        elif not began_in_body and self._head_bytes > self._limits.max_head_bytes:
            self._fail(self._head_too_large())

    def _count_event(self, size: int) -> None:
        if size < self._limits.bytes_per_event:
            self._budget.spend()

    def _check_framing(self) -> None:
        framing = self._body_bytes - self._content_bytes
        if framing > self._limits.framing_bytes + self._content_bytes:
            self._fail(
                _malformed(
                    f"{framing} bytes of chunk sizes and line ends frame {self._content_bytes} "
                    "bytes of body; send larger chunks"
                )
            )

    def _head_too_large(self) -> Problem:
        return Problem(
            Error.HEAD_TOO_LARGE,
            f"The request's head is larger than {self._limits.max_head_bytes} bytes or has more "
            f"than {self._limits.max_headers} header lines.",
        )

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Parse a request again as if it offered no other protocol; `rest` follows its head."""
        method = self.parser.get_method().decode("ascii")
        again = head.without_upgrade(method, self.url, self.parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._ignores_upgrade = False
        self._unparsed = again + rest + self._unparsed
        self._head_bytes -= len(again)

    def _drop(self, size: int) -> None:
        """Read and forget what comes behind the last request, up to a limit."""
        if self._linger_bytes_left is None:
            self._linger_bytes_left = self._limits.linger_bytes
        self._linger_bytes_left -= size
        if self._linger_bytes_left < 0:
            self._channel.abort()

    # --- the parser's callbacks ---------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._header_count = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._budget.spend()
        self._header_count += 1
        if self._header_count > self._limits.max_headers:
            self._refuse_head(self._head_too_large())
        if not self._in_body:  # else it is a trailer, which would pass for a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        method = self.parser.get_method().decode("ascii")
        fault = head.fault(method, self.parser.get_http_version(), self.headers)
        if fault is not None:
            self._refuse_head(_malformed(fault))
        if self.parser.should_upgrade():
            self._ignores_upgrade = True
            return
        self._cancel_head_timer()
        self._in_body = True
        self._body_bytes = self._content_bytes = 0
        self._open_connections.set_idle(self, False)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._count_event(len(body))
        self._content_bytes += len(body)
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
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self._head_is_late)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._head_bytes == 0:
            self._open_connections.end("silent")
            self._channel.close()
            return
        self._open_connections.end("slow_head")
        seconds = self._limits.head_timeout_s
        detail = f"The request's head has not arrived within {seconds:g} s (SCMRL_HEAD_TIMEOUT_S)."
        self._fail(Problem(Error.HEAD_TIMEOUT, detail))

    # --- refusing -----------------------------------------------------------------------------

    def _fail(self, problem: Problem) -> None:
        """Parse no more, and answer with the problem, where an answer can be given still."""
        self._is_broken = True
        self._unparsed = b""
        self._channel.throttle(False)
        if not self._in_flight:
            self._answer(problem)
            return
        self.cycle.keep_alive = False
        if self._in_body:
            self._body_problem = problem
            self.cycle.message_event.set()

    def _answer(self, problem: Problem) -> None:
        """Answer a request that was not understood."""
        self._cancel_head_timer()
        self._open_connections.set_idle(self, False)
        self.on_message_begin()
        self.scope["method"] = ""
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
        if not self._channel.unsent_bytes:
            self._cancel_send_timer()
        self._channel.cork()

    def on_response_complete(self) -> None:
        self._channel.uncork()
        if self._channel.unsent_bytes:
            self._limit_sending()
        super().on_response_complete()
        if not self._in_flight and not self._channel.is_closing():
            self._open_connections.set_idle(self, True)
            if self._head_bytes:
                self._expect_head()

    def pause_writing(self) -> None:
        self._limit_sending()
        super().pause_writing()

    def _limit_sending(self) -> None:
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(
                self._limits.send_timeout_s, self._give_up_sending
            )

    def _cancel_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _give_up_sending(self) -> None:
        self._send_timer = None
        unsent = self._channel.unsent_bytes
        if unsent:
            self._open_connections.end("unread")
            self.logger.warning(
                "an answer was given up: its client has not read it within %g s "
                "(SCMRL_SEND_TIMEOUT_S)", self._limits.send_timeout_s,
            )  # fmt: skip
            self._channel.abort()

    # --- closing ------------------------------------------------------------------------------

    def _close(self) -> None:
        """Close behind the answer; where the client is still sending, linger before."""
        self._cancel_head_timer()
        if self._is_lost:
            return
        if not self._in_body and not self._is_broken:
            self._channel.close_now()
            if self._channel.unsent_bytes:
                self._limit_sending()
            return
        if self._linger_bytes_left is None:
            self._linger_bytes_left = self._limits.linger_bytes
        self._channel.end_writing()
        self._channel.read_on()
        self._after(self._limits.linger_s, self._channel.abort)


def _malformed(why: str) -> Problem:
    return Problem(Error.MALFORMED, f"The request is not HTTP/1.1 as RFC 9112 has it: {why}.")
