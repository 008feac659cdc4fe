"""Split a video's time stamps into segments at restarts, steps back and jumps.

Such time stamps occur in concatenated recordings. Each segment follows directly after the previous
one, so that all frames are on one time axis.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, pairwise

from model.media.video.time_stamps import TIME_TOLERANCE_S, TimedPacket, to_seconds

#: A longer pause between two time stamps, in seconds, is a jump, unless sound covers it.
JUMP_S = 5.0
#: A key frame whose time stamp is more than this many seconds before the latest so far starts a new
#: recording. B-frames reorder, but no frame decoded before a key frame is displayed after it.
_STEP_BACK_S = 0.02
#: The same for decoding times of packets.
_DECODING_STEP_BACK_S = 0.5
_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
#: Containers with decoding times.
_WITH_DTS = ("mpegts", "mpeg", "flv", "live_flv", _MP4)
#: Containers with durations of frames. For others FFmpeg estimates them from the frame rate.
_WITH_DURATIONS = (_MP4, "gif", "apng")
#: A last frame that is this many times shorter than the median is shown for the median.
_MIN_LAST_FRAME = 10


@dataclass(frozen=True)
class Segment:
    """Frames without a jump between them, of packets `begin` to `end` (excluded).

    In units of the time base: their stamps are `first` to `last`, every frame is shown `shift`
    later than its stamp, and the last frame is shown for `length`.
    """

    begin: int
    end: int
    first: int
    last: int
    shift: int
    length: int

    @property
    def stop(self) -> int:
        """When the last frame ends."""
        return self.last + self.shift + self.length


@dataclass(frozen=True)
class Segmenter:
    """Split the packets of a video into segments.

    - `packets`, `stamps`: all packets in decoding order, and their time stamps.
    - `unit`: the time base, in seconds. `rate`: the frame rate, in Hz.
    - `lacks_pts`: whether frames are counted, for lack of presentation times.
    - `container`: FFmpeg's name of the container format.
    - `limit_s`: the longest duration.
    - `sound`: start and end (s) of each packet of sound.
    """

    packets: list[TimedPacket]
    stamps: list[int]
    unit: Fraction
    rate: Fraction
    lacks_pts: bool
    container: str
    limit_s: float
    sound: list[tuple[float, float]]

    def segments(self, holds_frames: bool) -> list[Segment]:
        """Return the segments, each directly after the previous one.

        `holds_frames`: whether a frame is shown through a jump if its packet's duration says so.
        """
        segments: list[Segment] = []
        median = 0
        boundaries = pairwise([*self._recording_starts(), len(self.packets)])
        for number, (begin, end) in enumerate(boundaries):
            # In an appended recording FFmpeg flags packets as discard only because their times
            # repeat: use them.
            indices = {
                self.stamps[index]: index
                for index in range(begin, end)
                if number or not self.packets[index].is_discarded
            }
            runs = [sorted(indices)]
            if not self.lacks_pts and not (holds_frames and self._has_all_durations(begin, end)):
                runs = self._split_at_jumps(runs[0])
            steps = [later - stamp for run in runs for stamp, later in pairwise(run)]
            median = sorted(steps)[len(steps) // 2] if steps else median
            for run in filter(None, runs):
                shift = segments[-1].stop - run[0] if segments else 0
                is_last = end == len(self.packets) and run is runs[-1]
                last_run = run if is_last and holds_frames else None
                length = self._last_frame_length(indices[run[-1]], end - 1, median, last_run)
                segments.append(Segment(begin, end, run[0], run[-1], shift, length))
        return segments

    def _recording_starts(self) -> list[int]:
        """Return the packets that begin a recording: where the time stamps step back."""
        if not self.packets or self.lacks_pts:
            return [0]
        has_dts = self.container in _WITH_DTS
        max_step_back = _DECODING_STEP_BACK_S / self.unit  # in time units
        starts, latest, previous_dts, dts = [0], self.packets[0], 0, 0
        for index, packet in enumerate(self.packets):
            stamp = packet.packet.dts if has_dts else None
            previous_dts, dts = dts, dts if stamp is None else stamp
            if packet.is_discarded:
                is_start = self._is_other_recording(index, latest)
            else:
                steps_back = packet.is_key and latest.time - packet.time > _STEP_BACK_S
                steps_back = steps_back or previous_dts - dts > max_step_back
                is_start = steps_back and not self._is_repeated(index)
            if index and is_start:
                starts.append(index)
            is_later = packet.time > latest.time and not packet.is_discarded
            if is_start or latest.is_discarded or is_later:
                latest = packet
        return starts

    def _is_other_recording(self, index: int, latest: TimedPacket) -> bool:
        """Return whether a discarded packet begins a recording that was appended to the first.

        FFmpeg flags mp4 fragments as discard if their times occurred before, whether they are new
        fragments or duplicates.
        """
        first, packet = self.packets[0], self.packets[index]
        restarts = (
            packet.is_key
            and abs(packet.time - first.time) <= TIME_TOLERANCE_S
            and packet.time < latest.time
        )
        return restarts and not self._is_repeated(index)

    def _is_repeated(self, index: int) -> bool:
        """Return whether a packet belongs to a fragment that an mp4 contains twice."""
        if self.container != _MP4:
            return False
        packet = self.packets[index].packet
        earlier = self.packets[self._first_indices[self.stamps[index]]].packet
        return earlier is not packet and bytes(earlier) == bytes(packet)

    @cached_property
    def _first_indices(self) -> dict[int, int]:
        """The first packet with each time stamp."""
        indices: dict[int, int] = {}
        for index, stamp in enumerate(self.stamps):
            indices.setdefault(stamp, index)
        return indices

    def _has_all_durations(self, begin: int, end: int) -> bool:
        """Return whether every packet's duration reaches to the next packet.

        In mp4 it does, except between fragments. In other containers it is an estimate.
        """
        packets = [packet.packet for packet in self.packets[begin:end]]
        return self.container == _MP4 and all(
            self._seconds((later.dts or 0) - (packet.dts or 0) - (packet.duration or 0)) <= JUMP_S
            for packet, later in pairwise(packets)
        )

    def _split_at_jumps(self, stamps: list[int]) -> list[list[int]]:
        """Split ascending stamps into runs. A pause that sound covers is not a jump."""
        runs: list[list[int]] = []
        jump, last = JUMP_S / self.unit, None
        for stamp in stamps:
            if last is None or (stamp - last > jump and not self._sound_covers(last, stamp)):
                runs.append([])
            runs[-1].append(stamp)
            last = stamp
        return runs

    @cached_property
    def _sound_runs(self) -> ContinuousRuns:
        return ContinuousRuns([begin for begin, _ in self.sound])

    def _sound_covers(self, begin: int, end: int) -> bool:
        return self._sound_runs.cover(self._seconds(begin), self._seconds(end))

    def _last_frame_length(
        self, last_shown: int, last_decoded: int, median: int, last_run: list[int] | None
    ) -> int:
        """Return how long a run's last frame is shown, in time units.

        That is its packet's duration, or the median. `last_shown` and `last_decoded` are the
        packets that are shown and decoded last. `last_run` is the run, if it is the last of all
        and its frame may be held.
        """
        length = self.packets[last_shown].packet.duration or 0
        if self.container == _MP4 and last_shown != last_decoded:
            # In mp4 a duration is the time to the next decoded packet, and that of the packet
            # decoded last is the time to the end.
            length = max(min(length, median), self.packets[last_decoded].packet.duration or 0)
        if self.container not in _WITH_DURATIONS:
            length = max(length, median)
        elif length * _MIN_LAST_FRAME < median:  # muxers write one unit for an unknown duration
            length = median
        if last_run is not None:
            max_length = round(self.limit_s / self.unit) - last_run[-1] + last_run[0]
            return min(length, max(median, max_length))
        is_jump = self._seconds(length) > JUMP_S
        return (median if is_jump else length) or frame_length(self.rate, self.unit)

    def _seconds(self, stamp: int) -> float:
        return to_seconds(stamp, self.unit)


class ContinuousRuns:
    """Times (s) of a stream's packets, in runs without a jump."""

    def __init__(self, times: list[float]) -> None:
        self._times = sorted(times)
        jumps = (later - time > JUMP_S for time, later in pairwise(self._times))
        self._runs = list(accumulate(jumps, initial=0))

    def cover(self, begin: float, end: float) -> bool:
        """Return whether the stream continues from `begin` to `end` (s)."""
        first = bisect_right(self._times, begin)
        last = bisect_left(self._times, end) - 1
        if last < first:
            return False
        longest_edge = max(self._times[first] - begin, end - self._times[last])
        return longest_edge <= JUMP_S and self._runs[first] == self._runs[last]


def frame_length(rate: Fraction, unit: Fraction) -> int:
    """Return the duration of a frame at `rate` (Hz), in time units of `unit` seconds."""
    return max(1, round(1 / (rate * unit)))
