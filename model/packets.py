"""Packets to frames: what damage leaves of them."""

from __future__ import annotations

from typing import Any

from av.packet import Packet
from av.stream import Stream


def decoded(stream: Stream, packet: Packet[Any] | None) -> list[Any]:
    """The frames that a packet completes (None: those that the decoder holds), none if damaged."""
    try:
        return list(stream.codec_context.decode(packet))  # type: ignore[attr-defined]
    except MemoryError:
        raise
    except Exception:  # FFmpeg's errors, and builtin ones on some damage
        return []
