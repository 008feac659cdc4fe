"""The decoder of one live stream, in its process: packets of H.264 to JPEG, of Opus to PCM.

The service buffers the decoded pictures and sound as it buffers JPEG and PCM of other clients.
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

#: JPEG quality of pictures, 0 to 100: its loss is far below that of H.264.
_QUALITY = 95
#: Most pixels of a returned picture, width x height; larger ones are reduced, as networks take far
#: smaller ones.
_MAX_PIXELS = 1280 * 720


@dataclass(frozen=True)
class _Decoder:
    """The decoder of an input: `decode` for packets, `pack` for the bytes of a decoded piece."""

    decode: Callable[[Packet], Decoded[Any]]
    pack: Callable[[Any], bytes]


def serve(sock: socket.socket, cpu_s: float) -> NoReturn:
    """Decode packet after packet, each in at most `cpu_s` of CPU time.

    Raises PeerLost where the service has closed the socket.
    """
    request = live_wire.receive_request(sock)
    decoders = {number: _decoder(source, request) for number, source in request.inputs.items()}
    while True:
        packet = live_wire.receive_packet(sock)
        sandbox.limit_cpu(cpu_s)
        decoder = decoders[packet.input]
        decoded = decoder.decode(packet)
        pieces = ((time_ns, decoder.pack(piece)) for time_ns, piece in decoded.pieces)
        live_wire.send_decoded(sock, decoded, pieces)


def warm() -> None:
    """Load what the decoders need, as a confined process opens no file."""
    request = LiveRequest(inputs={}, spacing_ns=0, limits=Limits())
    for source in (CodedInput(format="h264"), CodedInput(format="opus")):
        _decoder(source, request).decode(Packet(0, 0, 0, False, bytes(9)))
    _pack_picture(np.zeros((8, 8, 3), np.uint8))


def _decoder(source: CodedInput, request: LiveRequest) -> _Decoder:
    if source.format == "opus":
        return _Decoder(OpusDecoder(source.channels, source.pre_skip).decode, _pack_sound)
    decoder = H264Decoder(request.limits, request.spacing_ns, _MAX_PIXELS)
    return _Decoder(decoder.decode, _pack_picture)


def _pack_picture(picture: UInt8Array) -> bytes:
    return cv2.imencode(
        ".jpg", picture[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, _QUALITY)
    )[1].tobytes()  # fmt: skip


def _pack_sound(samples: NDArray[np.int16]) -> bytes:
    return samples.tobytes()
