"""Select the first audio track of a container that is not silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from av.packet import Packet
from av.stream import Stream

from model.media.audio.track import TrackDecoder
from model.media.blank import silence_reason
from model.media.types import Limits, Sound

#: Largest number of tracks that are decoded in search of one that is not silent.
_MAX_TRACKS = 16


class TrackSelector:
    """Audio tracks in order of preference, of which the first that is not silent is selected.

    The first track is decoded as its packets arrive. Packets of the others are stored, and
    decoded only if every preferred track is silent or cannot be decoded.
    """

    def __init__(self, streams: Sequence[Stream], indices: Sequence[int], limits: Limits) -> None:
        """`streams` are in order of preference; `indices` are those of all audio streams."""
        self._streams = streams[:_MAX_TRACKS]
        self._indices = indices
        self._limits = limits
        self._first = TrackDecoder(streams[0], limits)
        self._packets: dict[int, list[Packet[Any]]] = {s.index: [] for s in self._streams[1:]}

    def add(self, packet: Packet[Any]) -> None:
        """Add the next packet. Raises TooLarge and Unusable as `track.check_sound` does."""
        if packet.stream_index == self._streams[0].index:
            self._first.add(packet)
        elif packet.stream_index in self._packets:
            self._packets[packet.stream_index].append(packet)

    def sound(self) -> tuple[Sound | None, str | None]:
        """Return the sound with its track number; or None and the problem.

        If all tracks are silent, return the first. Raises as `add` does.
        """
        silent, problem = None, None
        for stream in self._streams:
            sound, track_problem = self._decoder(stream).sound()
            problem = problem or track_problem
            if sound is None:
                continue
            track = 1 + self._indices.index(stream.index)
            sound = replace(sound, track=track, tracks=len(self._indices))
            if len(self._streams) == 1 or silence_reason(sound) is None:
                return sound, None
            silent = silent or sound
        return silent, None if silent else problem

    def _decoder(self, stream: Stream) -> TrackDecoder:
        if stream is self._streams[0]:
            return self._first
        decoder = TrackDecoder(stream, self._limits)
        for packet in self._packets[stream.index]:
            decoder.add(packet)
        return decoder
