"""When each frame of a video is shown, by the time stamps of its packets and of the sound's.

Stamps are trusted as far as they run on. Where they restart, step back or jump, as in recordings
that were joined, a new segment begins: it is moved right behind the last one, in the packets as
well, so that all that is decoded is on one time axis.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, groupby, pairwise
from typing import Any, NamedTuple

from av.packet import Packet
from av.stream import Stream

from model.media.pyav import fraction
from model.media.types import SLACK_S, Limits, TooLarge
from model.media.video.decoder_state import DecoderState
from model.media.video.packets import copied, is_start

#: Times this close, in seconds, are the same: containers round them.
SAME_S = 1e-4
#: A longer pause between two stamps, in seconds, is a jump, unless the sound goes on through it.
_JUMP_S = 5.0
#: A key frame shown this much before an earlier one, in seconds, begins a segment. Frames are
#: decoded out of order, but none before a key frame is shown behind it.
_STEP_BACK_S = 0.02
#: The same of other packets, by when they are decoded.
_DECODED_BACK_S = 0.5
#: Containers that say when a packet is decoded.
_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
_WITH_DECODING_TIMES = ("mpegts", "mpeg", "flv", "live_flv", _MP4)
#: Containers that say how long a frame is shown; of others' FFmpeg guesses it by the frame rate.
_WITH_LENGTHS = (_MP4, "gif", "apng")
#: Sound that ends this much later than the pictures, in seconds, is its encoder's padding.
_PADDING_S = 0.1
#: A last frame that would be shown this much shorter than most is shown like them.
_MOST_SHORTER = 10
_USUAL_RATE = 25


class Shown(NamedTuple):
    """A packet of video, when its frame is shown (s), and whether decoding can start at it.

    `hidden`: it is decoded, but its frame is cut away by the container.
    """

    packet: Packet[Any]
    time: float
    key: bool
    hidden: bool


@dataclass(frozen=True)
class _Segment:
    """Frames without a jump between them, of packets `begin` to `end` (excluded).

    In time units: their stamps run from `first` to `last`, all are shown `shift` later than they
    say, and the last one for `length`.
    """

    begin: int
    end: int
    first: int
    last: int
    shift: int
    length: int

    @property
    def stop(self) -> int:
        """When the last frame's time ends."""
        return self.last + self.shift + self.length


class Timeline:
    """The video's packets in decoding order, when each frame is shown, and for how long."""

    def __init__(self, limits: Limits) -> None:
        self.packets: list[Shown] = []
        self.state = DecoderState()
        self._limit_s = limits.max_duration_s
        self._stamps: list[int] = []
        self._unit = Fraction(1, 1000)
        self._rate = Fraction(_USUAL_RATE)
        self._is_in_order = False
        self._container = ""
        self._sound_stamps: list[tuple[int | None, int | None]] = []
        self._sound_unit: Fraction | None = None
        self._end_s = 0.0

    def add(self, packet: Packet[Any]) -> None:
        """Note a packet of video."""
        if not self.packets:
            self._unit = fraction(packet.time_base) or self._unit
            self._rate = fraction(packet.stream.average_rate) or self._rate
            self._is_in_order = is_shown_in_order(packet.stream)
            self._container = packet.stream.container.format.name
        index, stamp = len(self.packets), self._stamp(packet)
        self.state.add(index, packet)
        key = is_start(packet, self.state.length_bytes(index))
        self._stamps.append(stamp)
        self.packets.append(Shown(packet, self._seconds(stamp), key, packet.is_discard))

    def add_sound(self, packet: Packet[Any]) -> None:
        """Note a packet of the sound that belongs to the video."""
        if not self._sound_stamps:
            self._sound_unit = fraction(packet.time_base)
        self._sound_stamps.append((packet.pts, packet.duration))

    def close(self, header_end_s: float | None = None) -> None:
        """Put all segments on one time axis, once every packet is there.

        `header_end_s` is when the clip ends by its header, where that is to be believed. Raises
        TooLarge where the frames span more than the limit.
        """
        segments = self._segments(held=True)
        if self._span_s(segments) > self._limit_s + SLACK_S:
            segments = self._segments(held=False)
        if self._span_s(segments) > self._limit_s + SLACK_S:
            limit = f"{self._limit_s:g} s"
            raise TooLarge(f"its pictures last longer than {limit}, by their time stamps")
        if segments:
            self._end_s = self._end(segments, header_end_s)
        for _, of_recording in groupby(segments, lambda segment: segment.begin):
            self._move(list(of_recording))

    def wanted(self, frames: int) -> tuple[float, list[float]]:
        """When the first frame is shown, and the frames shown at the centres of equal parts."""
        times = sorted({shown.time for shown in self.packets if not shown.hidden})
        if not times:
            return 0.0, []
        span = self._end_s - times[0]
        centres = [times[0] + (part + 0.5) / frames * span for part in range(frames)]
        shown = [max(0, bisect_right(times, at + SAME_S) - 1) for at in centres]
        return times[0], [times[index] for index in shown]

    def _seconds(self, stamp: int) -> float:
        return seconds(stamp, self._unit)

    def _stamp(self, packet: Packet[Any]) -> int:
        stamp = packet.dts if self._is_in_order else packet.pts
        if stamp is None:
            stamp = packet.dts
        if stamp is not None:
            return stamp
        return self._stamps[-1] + self._rates_length() if self._stamps else 0

    def _rates_length(self) -> int:
        """How long a frame is shown by the stream's rate, in time units."""
        return max(1, round(1 / (self._rate * self._unit)))

    def _recordings(self) -> list[int]:
        """The packets that begin a recording: where the time stamps step back."""
        if not self.packets or self._is_in_order:
            return [0]
        timed = self._container in _WITH_DECODING_TIMES
        most_back = _DECODED_BACK_S / self._unit  # in time units
        begins, latest, last, decoded = [0], self.packets[0], 0, 0
        for index, shown in enumerate(self.packets):
            stamp = shown.packet.dts if timed else None
            last, decoded = decoded, decoded if stamp is None else stamp
            if shown.hidden:
                begin = self._is_other_recording(index, latest)
            else:
                back = shown.key and latest.time - shown.time > _STEP_BACK_S
                back = back or last - decoded > most_back
                begin = back and not self._is_repeated(index)
            if index and begin:
                begins.append(index)
            if begin or latest.hidden or (shown.time > latest.time and not shown.hidden):
                latest = shown
        return begins

    def _is_other_recording(self, index: int, latest: Shown) -> bool:
        """Whether a packet that is cut away begins a recording that was joined to the first.

        FFmpeg cuts away fragments of an mp4 whose times came before: others, or the same again.
        """
        first, shown = self.packets[0], self.packets[index]
        again = shown.key and abs(shown.time - first.time) <= SAME_S and shown.time < latest.time
        return again and not self._is_repeated(index)

    def _is_repeated(self, index: int) -> bool:
        """Whether a packet is one of a fragment of an mp4 that comes twice."""
        if self._container != _MP4:
            return False
        packet = self.packets[index].packet
        earlier = self.packets[self._firsts[self._stamps[index]]].packet
        return earlier is not packet and bytes(earlier) == bytes(packet)

    @cached_property
    def _firsts(self) -> dict[int, int]:
        """The first packet that is shown at a time, in time units."""
        firsts: dict[int, int] = {}
        for index, stamp in enumerate(self._stamps):
            firsts.setdefault(stamp, index)
        return firsts

    def _says_all_lengths(self, begin: int, end: int) -> bool:
        """Whether every packet says when the next one comes: an mp4's do, except in fragments.

        Others do not say, and FFmpeg guesses.
        """
        packets = [shown.packet for shown in self.packets[begin:end]]
        return self._container == _MP4 and all(
            self._seconds((later.dts or 0) - (packet.dts or 0) - (packet.duration or 0)) <= _JUMP_S
            for packet, later in pairwise(packets)
        )

    @cached_property
    def _sound_runs(self) -> _Runs:
        return _Runs([begin for begin, _ in self._sound])

    @cached_property
    def _picture_runs(self) -> _Runs:
        return _Runs([shown.time for shown in self.packets])

    @cached_property
    def _sound(self) -> list[tuple[float, float]]:
        """When each packet of sound begins and ends (s)."""
        unit = self._sound_unit
        if unit is None:
            return []
        return [
            (seconds(stamp, unit), seconds(stamp + max(0, length or 0), unit))
            for stamp, length in self._sound_stamps
            if stamp is not None
        ]

    def _segments(self, held: bool) -> list[_Segment]:
        """All frames that are shown, each segment right behind the one before.

        `held`: whether a frame whose packet says so is shown through a jump of the stamps.
        """
        segments: list[_Segment] = []
        usual = 0
        for number, (begin, end) in enumerate(pairwise([*self._recordings(), len(self.packets)])):
            # Of a later recording all is shown: what is cut away there was for its times alone.
            places = {
                self._stamps[index]: index
                for index in range(begin, end)
                if number or not self.packets[index].hidden
            }
            runs = [sorted(places)]
            if not self._is_in_order and not (held and self._says_all_lengths(begin, end)):
                runs = self._without_jumps(runs[0])
            steps = [later - stamp for run in runs for stamp, later in pairwise(run)]
            usual = sorted(steps)[len(steps) // 2] if steps else usual
            for run in filter(None, runs):
                shift = segments[-1].stop - run[0] if segments else 0
                is_last = end == len(self.packets) and run is runs[-1]
                last_run = run if is_last and held else None
                length = self._length(places[run[-1]], end - 1, usual, last_run)
                segments.append(_Segment(begin, end, run[0], run[-1], shift, length))
        return segments

    def _without_jumps(self, stamps: list[int]) -> list[list[int]]:
        """Rising stamps in runs; a pause in which the sound goes on is no jump."""
        runs: list[list[int]] = []
        jump, last = _JUMP_S / self._unit, None
        for stamp in stamps:
            if last is None or (stamp - last > jump and not self._sound_covers(last, stamp)):
                runs.append([])
            runs[-1].append(stamp)
            last = stamp
        return runs

    def _sound_covers(self, begin: int, end: int) -> bool:
        return self._sound_runs.cover(self._seconds(begin), self._seconds(end))

    def _length(self, last: int, end: int, usual: int, last_run: list[int] | None) -> int:
        """How long a run's last frame is shown, in time units: as its packet says, or like most.

        `last` and `end`: the packets that are shown and decoded last; `last_run`: the run, if it is
        the last of all and its frame may be held.
        """
        length = self.packets[last].packet.duration or 0
        if self._container == _MP4 and last != end:
            # It says when the next packet is decoded; of the one decoded last, when all ends.
            length = max(min(length, usual), self.packets[end].packet.duration or 0)
        if self._container not in _WITH_LENGTHS:
            length = max(length, usual)
        elif length * _MOST_SHORTER < usual:  # muxers that do not know it write a single unit
            length = usual
        if last_run is not None:
            most = round(self._limit_s / self._unit) - last_run[-1] + last_run[0]
            return min(length, max(usual, most))
        is_pause = self._seconds(length) > _JUMP_S
        return (usual if is_pause else length) or self._rates_length()

    def _span_s(self, segments: list[_Segment]) -> float:
        """From the first frame to the last one (s)."""
        if not segments:
            return 0.0
        return self._seconds(segments[-1].last + segments[-1].shift - segments[0].first)

    def _move(self, segments: list[_Segment]) -> None:
        """Shift the packets of a recording's segments to where they are on the one time axis."""
        firsts = [segment.first for segment in segments]
        is_first = segments[0].begin == 0
        if is_first and len(segments) == 1:
            return
        for index in range(segments[0].begin, segments[0].end):
            packet, _, key, is_hidden = self.packets[index]
            if is_hidden and not is_first:  # its frame would be thrown away
                packet, is_hidden = copied(packet, bytes(packet)), False
            shift = segments[max(0, bisect_right(firsts, self._stamps[index]) - 1)].shift
            if packet.pts is not None:
                packet.pts += shift
            if packet.dts is not None:
                packet.dts += shift
            time = self._seconds(self._stamps[index] + shift)
            self.packets[index] = Shown(packet, time, key, is_hidden)

    def _end(self, segments: list[_Segment], header_end_s: float | None) -> float:
        """When the last frame's time ends (s): with its own, the header's or the sound's end."""
        last, first_s = segments[-1], self._seconds(segments[0].first)
        end = self._seconds(last.stop)
        later = [header_end_s] if header_end_s is not None and len(segments) == 1 else []
        sound_begins = self._sound_begins()
        if len(sound_begins) == len(segments):  # what joined the one joined the other
            sound = max(piece_end for _, piece_end in self._sound[sound_begins[-1] :])
            later.append(sound + self._seconds(last.shift))
        # A frame is not held for the padding of the sound, nor for what nobody can have sent.
        least = end + max(self._seconds(last.length), _PADDING_S)
        most = first_s + self._limit_s + SLACK_S
        return max([end, *(at for at in later if least < at <= most)])

    def _sound_begins(self) -> list[int]:
        """The packets of sound that begin a segment."""
        begins, latest = [], 0.0
        for index, (begin, end) in enumerate(self._sound):
            back = latest - begin > _PADDING_S
            jump = begin - latest > _JUMP_S and not self._picture_runs.cover(latest, begin)
            if back or jump or not index:
                begins.append(index)
                latest = end
            latest = max(latest, end)
        return begins


class _Runs:
    """Time stamps (s) of a stream, by runs without a jump."""

    def __init__(self, times: list[float]) -> None:
        self._times = sorted(times)
        jumps = (later - time > _JUMP_S for time, later in pairwise(self._times))
        self._runs = list(accumulate(jumps, initial=0))

    def cover(self, begin: float, end: float) -> bool:
        """Whether the stream goes on from `begin` to `end` (s)."""
        first = bisect_right(self._times, begin)
        last = bisect_left(self._times, end) - 1
        if last < first:
            return False
        edges = max(self._times[first] - begin, end - self._times[last])
        return edges <= _JUMP_S and self._runs[first] == self._runs[last]


def seconds(stamp: int, unit: Fraction) -> float:
    """A time stamp in seconds."""
    return stamp * unit.numerator / unit.denominator  # a product of fractions takes longer


def is_shown_in_order(stream: Stream) -> bool:
    """Whether frames are known by their number alone.

    AVI knows when packets are decoded only; what FFmpeg guesses is wrong with B-frames.
    """
    return stream.container.format.name == "avi"
