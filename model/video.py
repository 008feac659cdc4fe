"""The pictures of a container: which frames are wanted, and only those as RGB, upright."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.stream import Stream
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from model import colour
from model.clip import SLACK_S, Limits, Pictures, TooLarge, Unusable
from model.packets import decoded, is_needless, is_start, length_bytes
from model.pyav import fraction

#: Two times this close are the same: containers round them.
_SAME_S = 1e-4
#: More threads than this wait for each other's rows.
_MAX_THREADS = 4
#: Larger frames than this, in pixels, are decoded no sooner by several, which each hold some.
_LARGEST_SHARED = 4_000_000
#: How many times less the longest share must be than all, or it is not worth a decoder of its own.
_MUCH_SOONER = 1.5
#: Pixels more oblong than this are damage, not a format.
_MAX_ASPECT = 4.0

#: Pictures by when they are shown (s).
_Found = dict[float, NDArray[np.uint8]]


class _Shown(NamedTuple):
    """A packet of video, when its frame is shown (s), and whether decoding can start at it."""

    packet: Packet[Any]
    time: float
    key: bool


class Timeline:
    """The video's packets in decoding order, and when each frame is shown."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.packets: list[_Shown] = []
        self._first = float("inf")
        self._last = 0.0
        self._unit: Fraction | None = None

    def add(self, packet: Packet[Any]) -> None:
        """Note a packet; raises TooLarge once they span more than the limit."""
        time = self._time(packet)
        self.packets.append(_Shown(packet, time, is_start(packet)))
        if packet.is_discard:  # decoded, but cut away by the container
            return
        self._first = min(self._first, time)
        self._last = max(self._last, time)
        if self._last - self._first > self._limits.max_duration_s + SLACK_S:
            limit = f"{self._limits.max_duration_s:g} s"
            raise TooLarge(f"its pictures last longer than {limit}, by their time stamps")

    def _time(self, packet: Packet[Any]) -> float:
        decoded = packet.pts is None or _is_shown_in_order(packet.stream)
        stamp = packet.dts if decoded else packet.pts
        self._unit = self._unit or fraction(packet.time_base)
        if stamp is not None and self._unit:
            return _seconds(stamp, self._unit)
        if not self.packets:
            return 0.0
        return self.packets[-1].time + 1 / float(fraction(packet.stream.average_rate) or 25)

    def wanted(self, frames: int) -> tuple[float, list[float]]:
        """When the first frame is shown, and the frames shown at the centres of equal parts."""
        times = sorted({p.time for p in self.packets if not p.packet.is_discard})
        if not times:
            return 0.0, []
        span = times[-1] - times[0] + self._last_duration(times)
        centres = [times[0] + (part + 0.5) / frames * span for part in range(frames)]
        shown = [max(0, bisect_right(times, at + _SAME_S) - 1) for at in centres]
        return times[0], [times[index] for index in shown]

    def _last_duration(self, times: list[float]) -> float:
        """How long the last frame is shown: as its packet says, or like most others."""
        usual = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        said = next((p.packet for p in self.packets if p.time == times[-1]), None)
        if said is None or not said.duration or not self._unit:
            return usual
        limit = self._limits.max_duration_s
        return min(_seconds(said.duration, self._unit), max(usual, limit - times[-1] + times[0]))


class _Decoder:
    """Frames by the time at which they are shown, asked for in the rising order of `wanted`.

    Of the frames that are not wanted, those that no other is made from are left out.
    """

    def __init__(self, stream: Stream, packets: list[_Shown], wanted: list[float]) -> None:
        self._stream = stream
        self._packets = packets
        self._wanted = set(wanted)
        self._in_order = _is_shown_in_order(stream)
        self._unit = fraction(stream.time_base)
        self._starts = _starts(packets, wanted)
        self._ends = {} if self._in_order else self._last_needed(wanted)
        self._end = len(packets)
        self._in_vain: set[int] = set()
        self._length_bytes = length_bytes(stream.codec_context)
        self._next = 0
        self._given = 0  # frames since the first packet, were all of them decoded
        self._held: deque[tuple[VideoFrame, float | None]] = deque()
        self._drained = False

    def at(self, time: float) -> VideoFrame | None:
        """The frame shown at `time`; where it is damaged, the one before or else after it."""
        start = self._starts[time]
        if start > self._next or self._ended_early:
            self._jump(start)
        end = self._ends.get(time, len(self._packets))
        self._end = end if end >= self._next else len(self._packets)
        frame, exact = self._search(time)
        half = self._ended_early and frame is not None and frame.interlaced_frame
        if start in self._in_vain or (exact and not half):
            return frame
        return self._from_earlier(start, time) or frame

    @property
    def _ended_early(self) -> bool:
        return self._drained and self._end < len(self._packets)

    def _from_earlier(self, start: int, time: float) -> VideoFrame | None:
        """The same, decoded from the key frame before `start` and with what follows it.

        A frame's second field may be a packet of its own, and the key frame at `start` damaged.
        """
        self._ends.clear()
        self._end = len(self._packets)
        self._jump(next((key for key in reversed(range(start)) if self._packets[key].key), 0))
        frame, exact = self._search(time)
        if not exact:
            self._in_vain.add(start)
        return frame

    def _search(self, time: float) -> tuple[VideoFrame | None, bool]:
        """The frame at `time`, or else the nearest there is; and whether it is that one."""
        before = None
        while decoded := self._frame():
            frame, shown = decoded
            if shown is None or shown < time - _SAME_S:
                before = frame
                continue
            exact = shown <= time + _SAME_S
            if exact or before is None:
                return frame, exact
            self._held.appendleft(decoded)
            break
        return before, False

    def _last_needed(self, wanted: list[float]) -> dict[float, int]:
        """Behind which packet a frame is complete, where decoding then goes on at a later one.

        The decoder is made to give what it holds there; it would otherwise be fed the packets
        behind it until it lets go of the frame.
        """
        places = _places(self._packets)
        starts = [self._starts[time] for time in wanted[1:]] + [len(self._packets)]
        together = zip(wanted, starts, strict=True)
        return {time: places[time] + 1 for time, start in together if start > places[time]}

    def _jump(self, start: int) -> None:
        self._stream.codec_context.flush_buffers()
        self._held.clear()
        self._next = self._given = start
        self._drained = False

    def _frame(self) -> tuple[VideoFrame, float | None] | None:
        while not self._held:
            if self._next < self._end:
                self._hold(self._decoded(self._packets[self._next]))
                self._next += 1
            elif not self._drained:
                self._drained = True
                self._hold(decoded(self._stream, None))
            else:
                return None
        return self._held.popleft()

    def _decoded(self, shown: _Shown) -> list[VideoFrame]:
        context: Any = self._stream.codec_context
        # Where frames are known by their number alone, none may be left out; and dav1d looks but
        # once, when it is opened, at what to leave out.
        all_needed = self._in_order or context.codec.name == "libdav1d"
        needed = all_needed or shown.time in self._wanted
        # Threads take packets in turn: one that a thread only throws away costs its turn.
        if not needed and self._length_bytes and is_needless(shown.packet, self._length_bytes):
            return []
        context.skip_frame = "DEFAULT" if needed else "NONREF"
        return decoded(self._stream, shown.packet)

    def _hold(self, frames: list[VideoFrame]) -> None:
        for frame in frames:
            self._held.append((frame, self._time(frame)))
            self._given += 1

    def _time(self, frame: VideoFrame) -> float | None:
        if self._in_order:
            return self._packets[min(self._given, len(self._packets) - 1)].time
        stamp = frame.dts if frame.pts is None else frame.pts
        return None if stamp is None or self._unit is None else _seconds(stamp, self._unit)


def _places(packets: list[_Shown]) -> dict[float, int]:
    """Which packet makes the frame that is shown at a time."""
    return {shown.time: index for index, shown in enumerate(packets)}


def _starts(packets: list[_Shown], wanted: list[float]) -> dict[float, int]:
    """For each time that is wanted, the last packet to begin decoding at.

    Where fragments come twice, the container discards the second ones, at the same times.
    """
    keys = [index for index, packet in enumerate(packets) if packet.key]

    def rank(index: int) -> tuple[float, bool, int]:
        return packets[index].time, not packets[index].packet.is_discard, index

    def start(time: float) -> int:
        before = [index for index in keys if packets[index].time <= time + _SAME_S]
        return max(before, key=rank, default=0)

    return {time: start(time) for time in wanted}


def _shares(packets: list[_Shown], wanted: list[float], most: int) -> list[list[float]]:
    """The times that are wanted, in at most `most` shares that are decoded apart.

    What is decoded from one key frame on stays together. It is one share where two or more would
    not be done much sooner.
    """
    if most == 1:
        return [wanted]
    groups: dict[int, list[float]] = {}
    for time, start in _starts(packets, wanted).items():
        groups.setdefault(start, []).append(time)
    if len(groups) < 2:
        return [wanted]
    places = _places(packets)
    costs = {start: max(1, places[times[-1]] + 1 - start) for start, times in groups.items()}
    shares: list[list[float]] = [[] for _ in range(min(most, len(groups)))]
    loads = [0] * len(shares)
    for start in sorted(groups, key=lambda start: -costs[start]):
        least = loads.index(min(loads))
        shares[least] += groups[start]
        loads[least] += costs[start]
    if sum(loads) < _MUCH_SOONER * max(loads):
        return [wanted]
    return [sorted(share) for share in shares]


def _seconds(stamp: int, unit: Fraction) -> float:
    return stamp * unit.numerator / unit.denominator  # a product of fractions takes longer


def _is_shown_in_order(stream: Stream) -> bool:
    """AVI knows when packets are decoded only; what FFmpeg guesses is wrong with B-frames."""
    return stream.container.format.name == "avi"


def spread(
    stream: Stream,
    reopened: Callable[[], Stream],
    timeline: Timeline,
    frames: int,
    limits: Limits,
) -> tuple[Pictures | None, str | None]:
    """`frames` pictures at the centres of equal parts of the timeline; or None and why.

    `reopened` gives the same stream once more, with a decoder of its own.
    """
    context: Any = stream.codec_context
    _check_size(context.width, context.height, limits)
    first, wanted = timeline.wanted(frames)
    times = sorted(set(wanted))
    threads = _threads(context, limits)
    shares = _shares(timeline.packets, times, threads)
    streams = [stream, *(reopened() for _ in shares[1:])]
    read = partial(
        _read,
        packets=timeline.packets,
        limits=limits,
        largest=limits.max_total_pixels // max(1, len(times)),
        threads=threads // len(shares),
    )
    found: _Found = {}
    try:
        for part in _at_once(read, streams, shares):
            found |= part
    except Unusable as error:  # the sound may be all right
        return None, error.detail
    if not found:
        return (
            None,
            f"its picture ({context.name}) is damaged or empty: nothing of it could be decoded",
        )
    nearest = [min(found, key=lambda have: abs(have - time)) for time in wanted]
    return Pictures(
        tuple(found[time] for time in nearest), tuple(time - first for time in nearest)
    ), None


def _at_once(
    read: Callable[[Stream, list[float]], _Found],
    streams: list[Stream],
    shares: list[list[float]],
) -> list[_Found]:
    own, *others = zip(streams, shares, strict=True)
    if not others:
        return [read(*own)]
    with ThreadPoolExecutor(len(others), "scmrl-video") as pool:
        tasks = [pool.submit(read, *other) for other in others]
        return [read(*own), *(task.result() for task in tasks)]


def _read(
    stream: Stream,
    times: list[float],
    *,
    packets: list[_Shown],
    limits: Limits,
    largest: int,
    threads: int,
) -> _Found:
    """The frames shown at `times`, as far as they can be decoded, as RGB of `largest` pixels."""
    context: Any = stream.codec_context
    # Of the usual codecs, H.264 alone has its frames decoded sooner by several.
    context.thread_count = threads if context.name == "h264" else 1
    context.thread_type = "FRAME"
    context.options = {"max_pixels": str(limits.max_pixels)}
    decoder = _Decoder(stream, packets, times)
    found: _Found = {}
    for time in times:
        frame = decoder.at(time)
        if frame is None:
            continue
        _check_size(frame.width, frame.height, limits)
        found[time] = _upright(frame, _rgb(frame, _aspect(stream), largest))
    return found


def _threads(context: Any, limits: Limits) -> int:
    small = context.width * context.height <= _LARGEST_SHARED
    return min(limits.threads, _MAX_THREADS) if small else 1


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"its pictures are {width} x {height} pixels; at most {limits.max_pixels} are accepted"
        )


def _aspect(stream: Stream) -> float:
    """Width of a pixel over its height."""
    aspect = float(fraction(getattr(stream, "sample_aspect_ratio", None)) or 1)
    return aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1.0


def _rgb(frame: VideoFrame, aspect: float, largest: int) -> NDArray[np.uint8]:
    """The frame as RGB [h, w, 3] with square pixels, at most `largest` of them."""
    width, height = frame.width * aspect, float(frame.height)
    if colour.is_wide(frame):
        largest = min(largest, colour.LARGEST_WIDE)
    shrink = min(1.0, (largest / (width * height)) ** 0.5)
    return colour.shown(frame, max(1, int(width * shrink)), max(1, int(height * shrink)))


def _upright(frame: VideoFrame, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture turned and mirrored as the frame's display matrix says.

    A pixel (x, y) is shown at (a x + c y, b x + d y); only quarter turns and mirrors are done.
    """
    sides: Any = frame.side_data  # PyAV's annotations know no key but str
    matrix = sides.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return picture
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, 5).tolist()
    if abs(b) > abs(a):
        right, down, picture = c, b, picture.transpose(1, 0, 2)
    else:
        right, down = a, d
    picture = picture[:, ::-1] if right < 0 else picture
    picture = picture[::-1] if down < 0 else picture
    return np.ascontiguousarray(picture)
