"""When each frame of a video is shown, by the time stamps of its packets and of the sound's.

Where time stamps restart, step back or jump, a new segment begins (segments.py). It is moved to
directly after the previous one, in the packets as well, so that all frames are on one time axis.
"""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction
from itertools import groupby
from typing import Any

from av.packet import Packet

from model.media.pyav import to_fraction
from model.media.types import SLACK_S, Limits, TooLarge, Unusable
from model.media.video.decoder_state import DecoderState
from model.media.video.packets import copy_packet, is_random_access_point
from model.media.video.segments import (
    JUMP_S,
    ContinuousRuns,
    Segment,
    Segmenter,
    frame_length,
)
from model.media.video.time_stamps import TIME_TOLERANCE_S, TimedPacket, lacks_pts, to_seconds

#: Sound that ends later than the pictures by at most this, in seconds, is the encoder's padding.
_PADDING_S = 0.1
#: Frame rate of a stream that does not say its own, in Hz.
_DEFAULT_RATE = 25


class Timeline:
    """The video's packets in decoding order, when each frame is shown, and for how long."""

    def __init__(self, limits: Limits, span: tuple[float, float] | None = None) -> None:
        self.packets: list[TimedPacket] = []
        self._span = span
        self.state = DecoderState()
        self._limit_s = limits.max_duration_s
        self._max_shift = limits.max_frame_shift
        self._stamps: list[int] = []
        self._unit = Fraction(1, 1000)
        self._rate = Fraction(_DEFAULT_RATE)
        self._lacks_pts = False
        self._container = ""
        self._sound_stamps: list[tuple[int | None, int | None]] = []
        self._sound_unit: Fraction | None = None
        self._end_s = self._pictures_end_s = 0.0

    def add(self, packet: Packet[Any]) -> None:
        """Add a packet of video."""
        if not self.packets:
            self._unit = to_fraction(packet.time_base) or self._unit
            self._rate = to_fraction(packet.stream.average_rate) or self._rate
            self._lacks_pts = lacks_pts(packet.stream)
            self._container = packet.stream.container.format.name
        index, stamp = len(self.packets), self._stamp(packet)
        self.state.add(index, packet)
        is_key = is_random_access_point(packet, self.state.unit_length_size(index))
        self._stamps.append(stamp)
        self.packets.append(TimedPacket(packet, self._seconds(stamp), is_key, packet.is_discard))

    def add_sound(self, packet: Packet[Any]) -> None:
        """Add a packet of the sound that belongs to the video."""
        if not self._sound_stamps:
            self._sound_unit = to_fraction(packet.time_base)
        self._sound_stamps.append((packet.pts, packet.duration))

    def close(self, header_end_s: float | None = None) -> None:
        """Move all segments to one time axis, after the last packet was added.

        `header_end_s` is the clip's end by its header, if that is reliable. Raises TooLarge if
        the frames span more than the limit.
        """
        sound = self._sound_spans()
        segmenter = Segmenter(
            self.packets,
            self._stamps,
            self._unit,
            self._rate,
            self._lacks_pts,
            self._container,
            self._limit_s,
            sound,
        )
        segments = segmenter.segments(holds_frames=True)
        if self._span_s(segments) > self._limit_s + SLACK_S:
            segments = segmenter.segments(holds_frames=False)
        if self._span_s(segments) > self._limit_s + SLACK_S:
            raise TooLarge(
                f"its pictures last longer than {self._limit_s:g} s, by their time stamps",
                limit="max_duration_s",
            )
        if segments:
            self._end_s = self._clip_end_s(segments, header_end_s, sound)
            self._pictures_end_s = self._seconds(segments[-1].stop - segments[0].first)
        for _, recording in groupby(segments, lambda segment: segment.begin):
            self._move(list(recording))

    @property
    def pictures_s(self) -> float:
        """How long the pictures of the span, or all, last (s): not held for the sound's end."""
        start, end = self._span or (0.0, self._pictures_end_s)
        return max(0.0, min(end, self._pictures_end_s) - start)

    def select_times(self, frames: int) -> tuple[float, list[float]]:
        """Return the time of the first frame, and of those at the centres of equal parts (s).

        The parts are those of the span, or else of the whole. A key frame within
        `Limits.max_frame_shift` parts of a centre takes the place of another frame there. Raises
        Unusable where the span begins after the last frame.
        """
        times = sorted({packet.time for packet in self.packets if not packet.is_discarded})
        if not times:
            return 0.0, []
        start, end = times[0], self._end_s
        if self._span is not None:
            start, end = times[0] + self._span[0], min(end, times[0] + self._span[1])
            if start >= self._end_s:
                length = self._end_s - times[0]
                raise Unusable(
                    f"its pictures last {length:.2f} s, and {self._span[0]:g} s is later"
                )
        centres = [start + (part + 0.5) / frames * (end - start) for part in range(frames)]
        indices = [max(0, bisect_right(times, at + TIME_TOLERANCE_S) - 1) for at in centres]
        shown_times = [times[index] for index in indices]
        if self._max_shift:
            max_shift_s = self._max_shift * (end - start) / frames
            shown_times = self._prefer_key_frames(shown_times, centres, max_shift_s)
        return times[0], shown_times

    def _prefer_key_frames(
        self, shown_times: list[float], centres: list[float], max_shift_s: float
    ) -> list[float]:
        """Return `shown_times`, each that is not a key frame's replaced by the time of the key
        frame nearest to its centre in [centre - max_shift_s, centre + max_shift_s), if there is
        one (s); of two that are equally near, the earlier.

        The interval is half-open, and key frames that are shown at a centre are not taken for
        another, so that no two parts get the same picture for it.
        """
        key_times = {p.time for p in self.packets if p.is_key and not p.is_discarded}
        unshown = sorted(key_times.difference(shown_times))

        def prefer(shown_time: float, centre: float) -> float:
            if shown_time in key_times:
                return shown_time
            after = bisect_right(unshown, centre)
            around = unshown[max(0, after - 1) : after + 1]
            near = [t for t in around if centre - max_shift_s <= t < centre + max_shift_s]
            return min(near, key=lambda time: abs(time - centre), default=shown_time)

        return list(map(prefer, shown_times, centres))

    def _seconds(self, stamp: int) -> float:
        return to_seconds(stamp, self._unit)

    def _stamp(self, packet: Packet[Any]) -> int:
        stamp = packet.dts if self._lacks_pts else packet.pts
        if stamp is None:
            stamp = packet.dts
        if stamp is not None:
            return stamp
        return self._stamps[-1] + frame_length(self._rate, self._unit) if self._stamps else 0

    def _sound_spans(self) -> list[tuple[float, float]]:
        """Return the start and the end of each packet of sound (s)."""
        unit = self._sound_unit
        if unit is None:
            return []
        numerator, denominator = unit.numerator, unit.denominator
        return [
            (
                stamp * numerator / denominator,
                (stamp + max(0, length or 0)) * numerator / denominator,
            )
            for stamp, length in self._sound_stamps
            if stamp is not None
        ]

    def _span_s(self, segments: list[Segment]) -> float:
        """Return the time from the first frame to the last one (s)."""
        if not segments:
            return 0.0
        return self._seconds(segments[-1].last + segments[-1].shift - segments[0].first)

    def _move(self, segments: list[Segment]) -> None:
        """Shift the packets of a recording's segments to the common time axis."""
        firsts = [segment.first for segment in segments]
        is_first = segments[0].begin == 0
        if is_first and len(segments) == 1:
            return
        for index in range(segments[0].begin, segments[0].end):
            packet, _, is_key, is_discarded = self.packets[index]
            if is_discarded and not is_first:  # the decoder would discard its frame
                packet, is_discarded = copy_packet(packet, bytes(packet)), False
            shift = segments[max(0, bisect_right(firsts, self._stamps[index]) - 1)].shift
            if packet.pts is not None:
                packet.pts += shift
            if packet.dts is not None:
                packet.dts += shift
            time = self._seconds(self._stamps[index] + shift)
            self.packets[index] = TimedPacket(packet, time, is_key, is_discarded)

    def _clip_end_s(
        self,
        segments: list[Segment],
        header_end_s: float | None,
        sound: list[tuple[float, float]],
    ) -> float:
        """Return when the last frame ends (s): by its own length, the header or the sound."""
        last, first_s = segments[-1], self._seconds(segments[0].first)
        end = self._seconds(last.stop)
        later = [header_end_s] if header_end_s is not None and len(segments) == 1 else []
        sound_starts = self._sound_segment_starts(sound)
        if len(sound_starts) == len(segments):  # sound and pictures were concatenated together
            sound_end = max(packet_end for _, packet_end in sound[sound_starts[-1] :])
            later.append(sound_end + self._seconds(last.shift))
        # Do not hold the last frame for the padding of the sound, nor beyond the limit.
        earliest = end + max(self._seconds(last.length), _PADDING_S)
        latest = first_s + self._limit_s + SLACK_S
        return max([end, *(time for time in later if earliest < time <= latest)])

    def _sound_segment_starts(self, sound: list[tuple[float, float]]) -> list[int]:
        """Return the packets of sound that begin a segment."""
        picture_runs = ContinuousRuns([packet.time for packet in self.packets])
        starts, latest = [], 0.0
        for index, (begin, end) in enumerate(sound):
            steps_back = latest - begin > _PADDING_S
            jumps = begin - latest > JUMP_S and not picture_runs.cover(latest, begin)
            if steps_back or jumps or not index:
                starts.append(index)
                latest = end
            latest = max(latest, end)
        return starts
