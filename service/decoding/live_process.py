"""The decoder of one live stream, in its process: packets of H.264 to JPEG, of Opus to PCM.

The service buffers what comes out as it buffers what other clients send as JPEG and PCM.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from model.arrays import UInt8Array
from model.media.live.h264 import H264Decoder
from model.media.live.opus import OpusDecoder
from model.media.live.types import Decoded, Packet
from model.media.types import Limits
from service.decoding import live_wire, sandbox
from service.decoding.live_wire import CodedInput, LiveRequest

#: Quality of pictures, 0 to 100: what it changes is far below what H.264 does.
_QUALITY = 95
#: Most pixels of a picture: networks take far smaller ones.
_MAX_PIXELS = 1280 * 720


@dataclass(frozen=True)
class _Input:
    """How the packets of an input are decoded, and what is decoded becomes bytes."""

    decode: Callable[[Packet], Decoded[Any]]
    pack: Callable[[Any], bytes]


def serve(sock: socket.socket, cpu_s: float) -> NoReturn:
    """Decode packet after packet, each in at most `cpu_s` of CPU time.

    Raises PeerLost where the service has closed the socket.
    """
    request = live_wire.receive_request(sock)
    inputs = {number: _input(each, request) for number, each in request.inputs.items()}
    while True:
        packet = live_wire.receive_packet(sock)
        sandbox.limit_cpu(cpu_s)
        each = inputs[packet.input]
        decoded = each.decode(packet)
        pieces = ((time_ns, each.pack(piece)) for time_ns, piece in decoded.pieces)
        live_wire.send_decoded(sock, decoded, pieces)


def warm() -> None:
    """Load what the decoders need, as a confined process opens no file."""
    request = LiveRequest(inputs={}, spacing_ns=0, limits=Limits())
    for each in (CodedInput(format="h264"), CodedInput(format="opus")):
        _input(each, request).decode(Packet(0, 0, 0, False, bytes(9)))
    _pack_picture(np.zeros((8, 8, 3), np.uint8))


def _input(each: CodedInput, request: LiveRequest) -> _Input:
    if each.format == "opus":
        return _Input(OpusDecoder(each.channels, each.pre_skip).decode, _pack_sound)
    decoder = H264Decoder(request.limits, request.spacing_ns, _MAX_PIXELS)
    return _Input(decoder.decode, _pack_picture)


def _pack_picture(picture: UInt8Array) -> bytes:
    return cv2.imencode(
        ".jpg", picture[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, _QUALITY)
    )[1].tobytes()  # fmt: skip


def _pack_sound(samples: NDArray[np.int16]) -> bytes:
    return samples.tobytes()
