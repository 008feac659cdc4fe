"""Decoder state that packets carry for later ones: palettes, extradata, parameter sets.

A decoder that starts at a later key frame must be given the current state again. Without it, it
would use an older one, or none at all.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from av.packet import Packet, PacketSideData, packet_sidedata_type_from_literal

from model.media.video.packets import copy_packet, join_units, parameter_sets, unit_length_size

#: Largest number of parameter sets that are repeated: more than H.264 allows.
_MAX_SETS = 320
_SideDataKind = Literal["palette", "new_extradata"]
_SIDE_DATA_KINDS: tuple[_SideDataKind, ...] = ("palette", "new_extradata")


class _ParameterSets(NamedTuple):
    """The parameter sets in the packet at `packet_index`."""

    packet_index: int
    units: tuple[bytes, ...]


class DecoderState:
    """Palettes, extradata and parameter sets, with the index of the packet that carries them."""

    def __init__(self) -> None:
        self._side_data: dict[_SideDataKind, list[tuple[int, Packet[Any]]]] = {
            kind: [] for kind in _SIDE_DATA_KINDS
        }
        self._sets: list[_ParameterSets] = []
        self._first: Packet[Any] | None = None
        self._codec = ""
        self._length_sizes: list[tuple[int, int]] = []

    @property
    def changes(self) -> bool:
        """Whether the state changes within the stream."""
        return len(self._sets) > 1 or bool(self._side_data["new_extradata"])

    def add(self, index: int, packet: Packet[Any]) -> None:
        """Record the state that the packet at `index` carries."""
        if self._first is None:
            context: Any = packet.stream.codec_context
            self._first, self._codec = packet, context.name
            self._length_sizes.append((index, unit_length_size(self._codec, context.extradata)))
        for side_data in packet.iter_sidedata():
            if side_data.data_type in _SIDE_DATA_KINDS:
                self._side_data[side_data.data_type].append((index, packet))
                if side_data.data_type == "new_extradata":
                    size = unit_length_size(self._codec, bytes(side_data))
                    self._length_sizes.append((index, size))
        units = parameter_sets(packet, self._codec, self._length_sizes[-1][1])
        if units and (not self._sets or units != self._sets[-1].units):
            self._sets.append(_ParameterSets(index, units))

    def unit_length_size(self, index: int) -> int:
        """Return the bytes of the length before each unit in the packet at `index`; 0 for none."""
        position = bisect_right(self._length_sizes, index, key=lambda change: change[0])
        return self._length_sizes[position - 1][1] if position else 0

    def with_state(self, index: int, packet: Packet[Any]) -> Packet[Any]:
        """Return the packet at `index` with the current state, so that decoding can start at it."""
        side_data = [
            data for kind in _SIDE_DATA_KINDS if (data := self._current_side_data(kind, index))
        ]
        last_extradata = self._last_change(self._side_data["new_extradata"], index)
        first_index = last_extradata[0] if last_extradata else 0
        previous = self._sets[: bisect_left(self._sets, index, key=lambda sets: sets.packet_index)]
        size = self.unit_length_size(index)
        units = _latest_units(sets for sets in previous if sets.packet_index >= first_index)
        has_all_units = units == list(parameter_sets(packet, self._codec, size))
        if not side_data and (not units or has_all_units):
            return packet
        return copy_packet(packet, join_units(units, size) + bytes(packet), side_data)

    def _current_side_data(self, kind: _SideDataKind, index: int) -> PacketSideData | None:
        """Return the side data that applies at `index`; None if its kind never changes."""
        changes = self._side_data[kind]
        if not changes:
            return None
        if last := self._last_change(changes, index + 1):
            return last[1].get_sidedata(kind)
        context: Any = self._first.stream.codec_context if self._first else None
        if kind == "palette" or context is None or not context.extradata:
            return None
        number = packet_sidedata_type_from_literal(kind)
        data = PacketSideData(number, len(context.extradata))  # type: ignore[call-arg]
        data.update(context.extradata)
        return data

    @staticmethod
    def _last_change(
        changes: list[tuple[int, Packet[Any]]], end: int
    ) -> tuple[int, Packet[Any]] | None:
        """Return the last change before index `end`."""
        position = bisect_left(changes, end, key=lambda change: change[0])
        return changes[position - 1] if position else None


def _latest_units(changes: Iterable[_ParameterSets]) -> list[bytes]:
    """Return the units in order of their last occurrence: later ones replace equal numbers."""
    order: dict[bytes, None] = {}
    for change in changes:
        for unit in change.units:
            order.pop(unit, None)
            order[unit] = None
    return list(order)[-_MAX_SETS:]
