"""One WebSocket connection: uvicorn's protocol, with limits on time, work and memory."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame

from service.runtime.token_bucket import TokenBucket
from service.server.connection_transport import ConnectionTransport
from service.server.connections import Connections
from service.server.limits import ConnectionLimits
from service.server.lingering import LingeringClose
from service.server.timers import Timers

log = logging.getLogger("scmrl.http")
#: Of uvicorn's protocol, which logs the query of each handshake at the level INFO.
_protocol_log = logging.getLogger("scmrl.http.websocket")
_protocol_log.setLevel(logging.WARNING)
# A text that is not in UTF-8 closes the connection with 1007; uvicorn logs it as its own error.
_protocol_log.addFilter(lambda record: not str(record.msg).startswith("Invalid UTF-8"))
#: Reason of the close frame at shutdown.
_STOPPING = "The service is shutting down."


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A connection after the head of its WebSocket handshake, with limits that uvicorn lacks.

    - Small frames are counted like a request's parser events: a client that sends many is read more
      slowly.
    - Nothing is read from a client that does not read what is sent to it, and its connection is
      reset after `send_timeout_s`.
    - After its last frame, or a response in place of the WebSocket, the connection lingers, so that
      the client can read it.

    A message is at most `max_message_bytes`; a larger one closes the WebSocket with code 1009.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        limits: ConnectionLimits,
        open_connections: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.logger = _protocol_log
        self._limits = limits
        self._open_connections = open_connections
        self._timers = Timers(self.loop)
        self._events = TokenBucket(limits.event_burst, limits.events_per_s)
        self._unparsed = memoryview(b"")
        self._is_lost = False

    # --- the connection -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # uvicorn pauses for each message. `_parse` does it where something waits to be parsed.
        self._transport = ConnectionTransport(transport, self._close, has_flow_control=False)
        self._lingering = LingeringClose(self._transport, self._timers, self._limits)
        super().connection_made(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._open_connections.remove(self)
        self._timers.cancel_all()
        has_closed = self.close_sent or self.conn.close_rcvd is not None
        if self.handshake_complete and not has_closed:
            # As RFC 6455 has it. uvicorn's 1005 is that of a close frame without a code.
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Send a close frame with code 1012 (the service restarts), and tell the app."""
        if self._transport.is_closing():
            if not self._transport.unsent_bytes:
                self._transport.close_now()
        elif self.handshake_complete and not self.close_sent:
            # As uvicorn does it, with a reason.
            self.stop_keepalive()
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1012})
            self.conn.send_close(1012, _STOPPING)
            self._transport.write(b"".join(self.conn.data_to_send()))
            self._transport.close()
        else:
            super().shutdown()

    def evict(self) -> None:
        """Close a lingering connection at once, for a new one."""
        self._transport.abort()

    def _close(self) -> None:
        """Send what was written, and let the client read it."""
        self._unparsed = memoryview(b"")
        self._timers.cancel("parse")
        if self._is_lost:
            return
        self._open_connections.set_idle(self, True)
        self._lingering.begin()
        if self._transport.unsent_bytes:
            self._expect_reading()

    # --- reading ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            self._lingering.drop(len(data))
            return
        self._unparsed = memoryview(bytes(self._unparsed) + data)
        self._parse()
        if not self.handshake_initiated:  # `websockets` cannot parse the head
            self._transport.abort()

    def _parse(self) -> None:
        """Parse what has been received, as far as the budget of small frames allows.

        It stops where the app has not received the last message, or the client reads nothing.
        """
        size = self._limits.slice_bytes
        while self._unparsed and self._may_parse():
            wait_s = self._events.wait_s()
            if wait_s:
                self._timers.start("parse", wait_s, self._parse)
                break
            piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            super().data_received(bytes(piece))
        if not self._transport.is_closing():
            self._transport.throttle(bool(self._unparsed) or not self.writable.is_set())

    def _may_parse(self) -> bool:
        is_waiting = self._timers.is_running("parse")
        return not (self.read_paused or is_waiting or self._transport.is_closing()) and (
            self.writable.is_set()
        )

    async def receive(self) -> Any:
        message = await super().receive()
        if self._unparsed and not self._is_lost:
            self._parse()
        return message

    def handle_cont(self, event: Frame) -> None:
        self._count(event)
        super().handle_cont(event)

    def handle_text(self, event: Frame) -> None:
        self._count(event)
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        self._count(event)
        super().handle_bytes(event)

    def handle_ping(self) -> None:
        self._events.spend()
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        self._count(event)
        super().handle_pong(event)

    def _count(self, frame: Frame) -> None:
        if len(frame.data) < self._limits.bytes_per_event:
            self._events.spend()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.close_sent:  # also where a response was sent in place of the WebSocket
            self.handshake_complete = True
            self._parse()  # on to the client's close frame: the app receives nothing more

    # --- writing ------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._transport.throttle(True)
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self._transport.is_closing():
            self._timers.cancel("send")
            self._parse()

    def _expect_reading(self) -> None:
        if not self._timers.is_running("send"):
            self._timers.start("send", self._limits.send_timeout_s, self._give_up_sending)

    def _give_up_sending(self) -> None:
        if not self._transport.unsent_bytes:
            return
        self._open_connections.count_ended("unread")
        log.warning(
            "WebSocket reset: the client has not read what was sent to it within %g s "
            "(SCMRL_SEND_TIMEOUT_S)", self._limits.send_timeout_s,
        )  # fmt: skip
        self._transport.abort()
