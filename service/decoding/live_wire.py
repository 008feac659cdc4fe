"""The messages between the service and the decoder of a live stream, over a socket.

First the request as JSON. Then packets, each with a fixed head, and for each packet one reply, in
order. Nothing is pickled, and replies are checked as untrusted input: the process that sends them
has decoded untrusted packets.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from model.media.live.types import Decoded, Outcome, Packet
from model.media.types import Limits
from service.decoding.wire import PeerLost

_LENGTH = struct.Struct("!I")
#: input, whether the sequence may restart, sequence, capture time, bytes.
_PACKET = struct.Struct("!B?IqI")
#: outcome, packets lost, pieces; then of each piece: capture time, bytes.
_REPLY, _PIECE = struct.Struct("!BII"), struct.Struct("!qI")
#: Most pieces of one reply, and bytes of one: a packet of H.264 ends the wait of 16 pictures.
_MAX_PIECES, _MAX_PIECE = 64, 32 << 20


class CodedInput(BaseModel):
    """An input whose packets are decoded. `channels` and `pre_skip` are those of Opus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["h264", "opus"]
    channels: int = 1
    pre_skip: int = 0


class LiveRequest(BaseModel):
    """What a live decoder decodes: inputs by their number, with these `limits`.

    `spacing_ns`: pictures that follow the one before by less are not returned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: dict[int, CodedInput]
    spacing_ns: int
    limits: Limits


def pack_request(request: LiveRequest) -> bytes:
    """Return the first message."""
    head = request.model_dump_json().encode()
    return _LENGTH.pack(len(head)) + head


def pack_packet(packet: Packet) -> bytes:
    """Return the message of a packet."""
    head = _PACKET.pack(
        packet.input, packet.restarts, packet.sequence, packet.time_ns, len(packet.data)
    )
    return head + packet.data


def receive_request(sock: socket.socket) -> LiveRequest:
    """Wait for the first message. Raises PeerLost."""
    (size,) = _LENGTH.unpack(_receive(sock, _LENGTH.size))
    return LiveRequest.model_validate_json(_receive(sock, size))


def receive_packet(sock: socket.socket) -> Packet:
    """Wait for a packet. Raises PeerLost where the service has closed the socket."""
    number, restarts, sequence, time_ns, size = _PACKET.unpack(_receive(sock, _PACKET.size))
    return Packet(number, sequence, time_ns, restarts, _receive(sock, size))


def send_decoded(
    sock: socket.socket, decoded: Decoded[object], pieces: Iterable[tuple[int, bytes]]
) -> None:
    """Send the outcome of a packet, and what was decoded, as bytes."""
    parts = [_PIECE.pack(time_ns, len(data)) + data for time_ns, data in pieces]
    sock.sendall(_REPLY.pack(decoded.outcome, decoded.lost, len(parts)) + b"".join(parts))


async def receive_decoded(reader: asyncio.StreamReader) -> Decoded[bytes]:
    """Wait for a reply. Raises PeerLost."""
    try:
        outcome, lost, count = _REPLY.unpack(await reader.readexactly(_REPLY.size))
        if count > _MAX_PIECES:
            raise PeerLost(f"it sent {count} pieces; at most {_MAX_PIECES} are accepted")
        pieces = []
        for _ in range(count):
            time_ns, size = _PIECE.unpack(await reader.readexactly(_PIECE.size))
            if size > _MAX_PIECE or time_ns < 0:
                raise PeerLost(f"it sent an invalid piece of {size} bytes")
            pieces.append((time_ns, await reader.readexactly(size)))
        return Decoded(Outcome(outcome), lost, tuple(pieces))
    except (OSError, asyncio.IncompleteReadError) as exc:
        raise PeerLost("its process died") from exc
    except ValueError as exc:
        raise PeerLost(f"it sent an invalid reply: {exc}") from exc


def _receive(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size, socket.MSG_WAITALL) if size else b""
    if len(data) < size:
        raise PeerLost("it closed the socket")
    return data
