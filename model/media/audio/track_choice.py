"""The sound tracks of a container, of which the first that is not silent is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from av.packet import Packet
from av.stream import Stream

from model.media.audio.track import Samples
from model.media.blank import silence_reason
from model.media.types import Limits, Sound

#: Most tracks that are decoded in search of one that is not silent.
_MAX_TRACKS = 16


class Tracks:
    """Sound tracks, the preferred one first; `indices` are those of all that the file has.

    The first is decoded as its packets come. Packets of the others are kept, and decoded only
    where every track before them is silent or cannot be decoded.
    """

    def __init__(self, streams: Sequence[Stream], indices: Sequence[int], limits: Limits) -> None:
        self._streams = streams[:_MAX_TRACKS]
        self._indices = indices
        self._limits = limits
        self._first = Samples(streams[0], limits)
        self._kept: dict[int, list[Packet[Any]]] = {s.index: [] for s in self._streams[1:]}

    def add(self, packet: Packet[Any]) -> None:
        """Take the next packet. Raises TooLarge and Unusable as `check_sound` does."""
        if packet.stream_index == self._streams[0].index:
            self._first.add(packet)
        elif packet.stream_index in self._kept:
            self._kept[packet.stream_index].append(packet)

    def sound(self) -> tuple[Sound | None, str | None]:
        """The sound, with the number of its track; or None and why.

        Where all tracks are silent it is the first of them. Raises as `add` does.
        """
        silent, problem = None, None
        for stream in self._streams:
            sound, reason = self._samples(stream).sound()
            problem = problem or reason
            if sound is None:
                continue
            track = 1 + self._indices.index(stream.index)
            sound = replace(sound, track=track, tracks=len(self._indices))
            if len(self._streams) == 1 or silence_reason(sound) is None:
                return sound, None
            silent = silent or sound
        return silent, None if silent else problem

    def _samples(self, stream: Stream) -> Samples:
        if stream is self._streams[0]:
            return self._first
        samples = Samples(stream, self._limits)
        for packet in self._kept[stream.index]:
            samples.add(packet)
        return samples
