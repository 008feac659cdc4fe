"""`python -m tests.attacks.attack NAME PORT SECONDS`: one attack."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import struct
import sys
from collections.abc import Awaitable, Callable

from tests.attacks.requests import GOOD, clip_request, head_of_form

#: What the attacks raise when the service closes their connection: they open the next one.
_REFUSED = (ConnectionError, TimeoutError, asyncio.IncompleteReadError)
#: Seconds between two connections of a client that is refused.
_RETRY_S = 0.05
_CONNECTIONS = 4
#: One side of the canvas that takes a decoder long, in pixels, and how many pictures it has.
_CANVAS_PX, _PICTURES = 5760, 1000

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


async def _write_forever(writer: asyncio.StreamWriter, data: bytes, pause_s: float = 0.0) -> None:
    while True:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(pause_s)


async def _flood(connect: Connect, head: bytes, data: bytes, pause_s: float = 0.0) -> None:
    """Send a head and then `data` without end, and read what comes back, until it is refused."""
    reader, writer = await connect()
    writer.write(head)
    reading = asyncio.create_task(_discard(reader))
    writing = asyncio.create_task(_write_forever(writer, data, pause_s))
    try:
        await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        reading.cancel()
        writing.cancel()
        await asyncio.gather(reading, writing, return_exceptions=True)
        writer.close()


async def one_byte_chunks(connect: Connect) -> None:
    """A chunked body in chunks of one byte."""
    await _flood(connect, head_of_form("Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 10_000)


async def header_lines(connect: Connect) -> None:
    """Header lines without end."""
    await _flood(connect, b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n" * 10_000)


async def byte_by_byte(connect: Connect) -> None:
    """A body in packets of one byte, as fast as they can be sent."""
    await _flood(connect, head_of_form("Content-Length: 1000000"), b"x")


async def empty_lines(connect: Connect) -> None:
    """Empty lines without end, before a request."""
    await _flood(connect, b"", b"\r\n" * 30_000)


async def pipelined(connect: Connect) -> None:
    """Requests without end, none of which waits for the response of the one before."""
    await _flood(connect, b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)


async def refused_bodies(connect: Connect) -> None:
    """100 GB announced, refused with 413, and sent."""
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n\r\n"
    await _flood(connect, head, b"x" * (1 << 16))


async def unread_responses(connect: Connect) -> None:
    """Requests for overlays whose responses are never read."""
    _, writer = await connect()
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport that reads
    try:
        writer.write(clip_request(GOOD.read_bytes(), attention="overlay"))
        await asyncio.sleep(3600)
    finally:
        writer.close()


async def idle(connect: Connect) -> None:
    """A connection that sends nothing, and is not opened again once the service has closed it."""
    reader, writer = await connect()
    try:
        await reader.read(1)
        await asyncio.sleep(3600)
    finally:
        writer.close()


async def reconnecting(connect: Connect) -> None:
    """A connection that is closed as soon as it is open, and opened again."""
    _, writer = await connect()
    writer.close()


async def abandoned(connect: Connect) -> None:
    """A file that takes a decoder's whole time, whose client hangs up at once."""
    _, writer = await connect()
    writer.write(clip_request(_slow_picture()))
    await asyncio.sleep(0.15)
    writer.close()
    await asyncio.sleep(2)


def _slow_picture() -> bytes:
    """A GIF of 18 KB: a large canvas, which each of many pictures of one pixel composes anew."""
    side = struct.pack("<H", _CANVAS_PX)
    palette = b"\x00\x00\x00\xff\xff\xff"
    control = b"\x21\xf9\x04\x00\x05\x00\x00\x00"  # shown for 50 ms
    position, size = struct.pack("<HH", 0, 0), struct.pack("<HH", 1, 1)
    lzw = b"\x02\x02\x44\x01\x00"  # one pixel of the first colour
    picture = control + b"\x2c" + position + size + b"\x00" + lzw
    return b"GIF89a" + side + side + b"\x80\x00\x00" + palette + picture * _PICTURES + b"\x3b"


#: Each attack, and how many connections it has at a time.
ATTACKS: dict[str, tuple[Callable[[Connect], Awaitable[None]], int]] = {
    "one-byte-chunks": (one_byte_chunks, _CONNECTIONS),
    "header-lines": (header_lines, _CONNECTIONS),
    "byte-by-byte": (byte_by_byte, _CONNECTIONS),
    "empty-lines": (empty_lines, _CONNECTIONS),
    "pipelined": (pipelined, _CONNECTIONS),
    "refused-bodies": (refused_bodies, 8),
    "unread-responses": (unread_responses, 20),
    "idle": (idle, 5000),
    "reconnecting": (reconnecting, 100),
    "abandoned": (abandoned, 2),
}


async def attack(name: str, port: int, seconds: float) -> None:
    """Keep the attack's connections busy: one that is refused is opened again."""
    once, connections = ATTACKS[name]

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return reader, writer

    async def repeat() -> None:
        while True:
            with contextlib.suppress(*_REFUSED):
                await once(connect)
            await asyncio.sleep(_RETRY_S)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(repeat() for _ in range(connections)))


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # On a machine of its own it would take none of the service's cores.
    os.nice(10)
    asyncio.run(attack(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
