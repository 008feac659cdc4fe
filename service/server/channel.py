"""A transport that joins small writes and closes without losing the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

#: Largest head and body, in bytes, that are copied into one write.
_JOINED_BYTES = 64 * 1024
#: What every answer begins with.
_BEGINNING = b"HTTP/1.1 "


class Channel(asyncio.Transport):
    """Wraps the transport of one connection for uvicorn's protocol.

    - `cork` holds what is written until `uncork`, or until the event loop's next turn: an answer's
      head and body leave in one segment.
    - `probe` sends one byte of the next answer ahead.
    - Reading stops while anyone has paused it: the protocol's flow control or `throttle`.
    - `close` calls `on_close` in place of closing: the connection decides whether to linger.
    """

    def __init__(self, transport: asyncio.Transport, on_close: Callable[[], None]) -> None:
        super().__init__()
        self._transport = transport
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._corked: list[bytes] | None = None
        self._closing = False
        self._flow_paused = False
        self._throttled = False
        self._reading = True
        self._sent_ahead = 0  # bytes of the next answer's beginning
        #: Bytes that were written, sent or not.
        self.written_bytes = 0

    # --- what uvicorn's protocol uses ---------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_closing():
            return  # the answer is over, or nobody is there to read it
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
        self._flow_paused = True
        self._update_reading()

    def resume_reading(self) -> None:
        self._flow_paused = False
        self._update_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    # --- what the connection uses -------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        """Bytes that were written and that the kernel has not taken."""
        return self._transport.get_write_buffer_size()

    def cork(self) -> None:
        """Hold what is written from now on."""
        if self._corked is None:
            self._corked = []
            self._loop.call_soon(self.uncork)

    def uncork(self) -> None:
        """Write what was held."""
        held, self._corked = self._corked, None
        if not held or self._transport.is_closing():
            return
        if sum(map(len, held)) <= _JOINED_BYTES:
            self._write(b"".join(held))
        else:
            for data in held:
                self._write(data)

    def probe(self) -> None:
        """Send one more byte of the next answer's first ones.

        The kernel of a client that has gone answers it by a reset. Where the client closes its
        connection with the byte unread, its kernel sends one then.
        """
        if self._sent_ahead < len(_BEGINNING) and not self.is_closing():
            self._transport.write(_BEGINNING[self._sent_ahead : self._sent_ahead + 1])
            self._sent_ahead += 1

    def throttle(self, on: bool) -> None:
        """Stop or go on reading, whatever flow control says."""
        self._throttled = on
        self._update_reading()

    def end_writing(self) -> None:
        """Send FIN behind what was written: the client reads the answer's end."""
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def read_on(self) -> None:
        """Read whatever comes, without flow control."""
        self._flow_paused = self._throttled = False
        self._update_reading()

    def close_now(self) -> None:
        """Close once what was written has been sent."""
        self._closing = True
        self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._sent_ahead:
            assert data.startswith(_BEGINNING), "every answer begins so"
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
