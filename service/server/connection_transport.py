"""A transport that joins small writes, and lets its connection handle closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

#: Largest head and body together, in bytes, that are copied into one write.
_MAX_JOINED_BYTES = 64 * 1024
#: First bytes of every response.
_RESPONSE_START = b"HTTP/1.1 "


class ConnectionTransport(asyncio.Transport):
    """Wraps the transport of one connection for uvicorn's protocol.

    - `cork` buffers writes until `uncork`, or until the event loop's next iteration, so that head
      and body of a response leave in one segment.
    - `probe` sends one byte of the next response ahead.
    - Reading is paused while the protocol's flow control, where it is heeded (`has_flow_control`),
      or `throttle` has paused it.
    - `close` calls `on_close` instead of closing, as the connection may linger.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        on_close: Callable[[], None],
        has_flow_control: bool = True,
    ) -> None:
        super().__init__()
        self._transport = transport
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._corked: list[bytes] | None = None
        self._closing = False
        self._has_flow_control = has_flow_control
        self._flow_paused = False
        self._throttled = False
        self._reading = True
        self._sent_ahead = 0  # bytes of the next response
        #: Bytes written so far, sent or not.
        self.written_bytes = 0

    # --- used by uvicorn's protocol ------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_closing():
            return  # the response is over, or the client has gone
        if self._corked is None:
            self._write(bytes(data))
        else:
            self._corked.append(bytes(data))

    def close(self) -> None:
        if not self._closing:
            self.uncork()
            self._closing = True
            self._on_close()

    def abort(self) -> None:
        self._closing = True
        self._corked = None
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def pause_reading(self) -> None:
        self._flow_paused = self._has_flow_control
        self._update_reading()

    def resume_reading(self) -> None:
        self._flow_paused = False
        self._update_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    # --- used by the connection ----------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        """Bytes written that the kernel has not accepted yet."""
        return self._transport.get_write_buffer_size()

    def cork(self) -> None:
        """Buffer writes from now on."""
        if self._corked is None:
            self._corked = []
            self._loop.call_soon(self.uncork)

    def uncork(self) -> None:
        """Write what was buffered."""
        buffered, self._corked = self._corked, None
        if not buffered or self._transport.is_closing():
            return
        if sum(map(len, buffered)) <= _MAX_JOINED_BYTES:
            self._write(b"".join(buffered))
        else:
            for data in buffered:
                self._write(data)

    def probe(self) -> None:
        """Send one more of the first bytes of the next response.

        The kernel of a client that has gone replies with a reset. A client that closes its
        connection later, with the byte unread, makes its kernel send one then.
        """
        if self._sent_ahead < len(_RESPONSE_START) and not self.is_closing():
            self._transport.write(_RESPONSE_START[self._sent_ahead : self._sent_ahead + 1])
            self._sent_ahead += 1

    def throttle(self, on: bool) -> None:
        """Pause (`on`) or resume reading, independent of flow control."""
        self._throttled = on
        self._update_reading()

    def end_writing(self) -> None:
        """Send FIN after what was written, so that the client reads the end of the response."""
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def read_on(self) -> None:
        """Resume reading, whether flow control or `throttle` has paused it."""
        self._flow_paused = self._throttled = False
        self._update_reading()

    def release(self) -> asyncio.Transport:
        """Return the transport, for another protocol: reading, and with nothing buffered here."""
        self.uncork()
        self.read_on()
        self._closing = True
        return self._transport

    def close_now(self) -> None:
        """Close once all that was written has been sent."""
        self._closing = True
        self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._sent_ahead:
            assert data.startswith(_RESPONSE_START), "every response begins so"
            data, self._sent_ahead = data[self._sent_ahead :], 0
        self.written_bytes += len(data)
        self._transport.write(data)

    def _update_reading(self) -> None:
        reading = not (self._flow_paused or self._throttled)
        if reading is self._reading or self._transport.is_closing():
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()
