"""The order of packets by their sequence numbers."""

from __future__ import annotations

from model.media.live.types import Packet

_MODULUS = 1 << 32


class Sequence:
    """Finds gaps and late packets.

    A client that numbers none, so that all numbers are equal, is taken to have lost none.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._time_ns = -1

    def missing(self, packet: Packet) -> int | None:
        """Return the packets that are missing before this one; None: it is late.

        A lower number with a later time means that the encoder was restarted: one packet counts as
        missing, since its state is not that of the packet before.
        """
        last, before_ns = self._last, self._time_ns
        ahead = 1 if last is None else (packet.sequence - last) % _MODULUS
        if ahead == 0 and packet.time_ns > before_ns:
            ahead = 1
        is_back = ahead == 0 or ahead >= _MODULUS // 2
        if is_back and packet.time_ns <= before_ns and not packet.restarts:
            return None
        self._last, self._time_ns = packet.sequence, packet.time_ns
        if is_back or (packet.restarts and ahead > 1):
            return 1
        return ahead - 1
