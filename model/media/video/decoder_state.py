"""What a decoder has to be given again before it begins at a later key frame.

A palette, new extradata or a parameter set comes with one packet and holds for those behind it.
A decoder that is not given that packet would use an older one, or none at all.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from av.packet import Packet, PacketSideData, packet_sidedata_type_from_literal

from model.media.video.packets import copied, joined, length_bytes, parameter_sets

#: Most parameter sets that are given again: more than a stream of H.264 may have.
_MAX_SETS = 320
_Kind = Literal["palette", "new_extradata"]
_KINDS: tuple[_Kind, ...] = ("palette", "new_extradata")


class _Sets(NamedTuple):
    """The parameter sets in the packet of this number."""

    packet: int
    units: tuple[bytes, ...]


class DecoderState:
    """Palettes, extradata and parameter sets, each with the number of the packet it came in."""

    def __init__(self) -> None:
        self._side: dict[_Kind, list[tuple[int, Packet[Any]]]] = {kind: [] for kind in _KINDS}
        self._sets: list[_Sets] = []
        self._first: Packet[Any] | None = None
        self._codec = ""
        self._sizes: list[tuple[int, int]] = []

    @property
    def changes(self) -> bool:
        """Whether what holds for the first packet does not hold for all."""
        return len(self._sets) > 1 or bool(self._side["new_extradata"])

    def add(self, index: int, packet: Packet[Any]) -> None:
        """Note what packet number `index` carries for those behind it."""
        if self._first is None:
            context: Any = packet.stream.codec_context
            self._first, self._codec = packet, context.name
            self._sizes.append((index, length_bytes(self._codec, context.extradata)))
        for side in packet.iter_sidedata():
            if side.data_type in _KINDS:
                self._side[side.data_type].append((index, packet))
                if side.data_type == "new_extradata":
                    self._sizes.append((index, length_bytes(self._codec, bytes(side))))
        size = self._sizes[-1][1]
        units = parameter_sets(packet, self._codec, size)
        if units and (not self._sets or units != self._sets[-1].units):
            self._sets.append(_Sets(index, units))

    def length_bytes(self, index: int) -> int:
        """Bytes of the length before each unit in packet number `index`; 0 where it has none."""
        at = bisect_right(self._sizes, index, key=lambda change: change[0])
        return self._sizes[at - 1][1] if at else 0

    def restated(self, index: int, packet: Packet[Any]) -> Packet[Any]:
        """The packet with all that earlier ones carry for it, to begin decoding at it."""
        side = [data for kind in _KINDS if (data := self._side_data(kind, index))]
        since = self._last(self._side["new_extradata"], index)
        since_index = since[0] if since else 0
        before = self._sets[: bisect_left(self._sets, index, key=lambda sets: sets.packet)]
        size = self.length_bytes(index)
        units = list(_newest(sets for sets in before if sets.packet >= since_index))
        has_all = units == list(parameter_sets(packet, self._codec, size))
        if not side and (not units or has_all):
            return packet
        return copied(packet, joined(units, size) + bytes(packet), side)

    def _side_data(self, kind: _Kind, index: int) -> PacketSideData | None:
        """What of this kind holds for a packet, of a stream in which it changes."""
        changes = self._side[kind]
        if not changes:
            return None
        if last := self._last(changes, index + 1):
            return last[1].get_sidedata(kind)
        context: Any = self._first.stream.codec_context if self._first else None
        if kind == "palette" or context is None or not context.extradata:
            return None
        number = packet_sidedata_type_from_literal(kind)
        data = PacketSideData(number, len(context.extradata))  # type: ignore[call-arg]
        data.update(context.extradata)
        return data

    @staticmethod
    def _last(
        changes: list[tuple[int, Packet[Any]]], before: int
    ) -> tuple[int, Packet[Any]] | None:
        """The last change before packet number `before`."""
        at = bisect_left(changes, before, key=lambda change: change[0])
        return changes[at - 1] if at else None


def _newest(sets: Iterator[_Sets]) -> list[bytes]:
    """Their units in order, each once where it came last: they replace each other by number."""
    order: dict[bytes, None] = {}
    for change in sets:
        for unit in change.units:
            order.pop(unit, None)
            order[unit] = None
    return list(order)[-_MAX_SETS:]
