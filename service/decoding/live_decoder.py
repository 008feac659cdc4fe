"""The decoder of one live stream, from the side of the service."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from model.media.live.types import Decoded, Packet
from service.decoding import live_wire
from service.decoding.live_wire import LiveRequest
from service.decoding.process import Process
from service.decoding.stderr_tail import quote_lines
from service.decoding.wire import PeerLost

log = logging.getLogger("scmrl.decoding")

#: Packets are dropped while the oldest that is not decoded is older than this, in seconds, or those
#: that are not decoded have more bytes than this.
_MAX_BEHIND_S, _MAX_BEHIND_BYTES = 1.0, 8 << 20

OnDecoded = Callable[[Packet, Decoded[bytes]], None]


class LiveDecoder:
    """Decodes the packets of one live stream in a confined process of its own, in their order.

    `feed` never waits. `run` passes on what was decoded, until it is cancelled or the process is
    lost; it is not replaced, as the state of its decoders is lost with it. Used by the event loop
    alone.
    """

    def __init__(self, process: Process, end: Callable[[Process], None], seconds: float) -> None:
        self._process = process
        self._end = end
        self._seconds = seconds
        self._pending: deque[tuple[float, Packet]] = deque()
        self._pending_bytes = 0
        self._has_pending = asyncio.Event()
        self._is_drained = asyncio.Event()
        self._is_drained.set()
        self._is_closed = False
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def open(self, request: LiveRequest) -> None:
        """Connect to the process, and send what it is to decode. Raises PeerLost."""
        sock = socket.socket(fileno=self._process.detach())
        try:
            self._reader, self._writer = await asyncio.open_connection(sock=sock)
        except OSError as exc:
            sock.close()
            raise PeerLost(str(exc)) from exc
        self._writer.write(live_wire.pack_request(request))

    @property
    def pid(self) -> int:
        return self._process.pid

    def feed(self, packet: Packet) -> bool:
        """Send a packet to the process; False: it is dropped, as the process is behind."""
        size = len(packet.data)
        now = time.monotonic()
        if self._pending and (
            now - self._pending[0][0] > _MAX_BEHIND_S
            or self._pending_bytes + size > _MAX_BEHIND_BYTES
        ):
            return False
        if not self._writer.transport.is_closing():  # else `run` finds that the process has ended
            self._writer.write(live_wire.pack_packet(packet))
        self._pending.append((now, packet))
        self._pending_bytes += size
        self._has_pending.set()
        self._is_drained.clear()
        return True

    async def run(self, on_decoded: OnDecoded) -> NoReturn:
        """Call `on_decoded` for each packet. Raises PeerLost, and logs why."""
        try:
            while True:
                await self._has_pending.wait()
                decoded = await self._receive()
                _, packet = self._pending.popleft()
                self._pending_bytes -= len(packet.data)
                on_decoded(packet, decoded)
                if not self._pending:
                    self._has_pending.clear()
                    self._is_drained.set()
        except PeerLost as exc:
            await self.close()
            lines = quote_lines(await asyncio.to_thread(self._process.stderr_tail.lines))
            log.warning("the decoder of a live stream, process %d, is ended: %s%s",
                        self._process.pid, exc, lines)  # fmt: skip
            raise

    async def drained(self) -> None:
        """Wait until all packets that were fed are decoded."""
        await self._is_drained.wait()

    async def close(self) -> None:
        """End the process, whatever it is doing. Once: another one may get its id."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(AttributeError):  # it was not opened
            self._writer.transport.abort()
        await asyncio.to_thread(self._end, self._process)

    async def _receive(self) -> Decoded[bytes]:
        try:
            async with asyncio.timeout(self._seconds):
                return await live_wire.receive_decoded(self._reader)
        except TimeoutError:
            raise PeerLost(f"a packet took longer than {self._seconds:g} s") from None
