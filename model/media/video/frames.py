"""The pictures of a container: which frames are wanted, and only those as RGB, upright."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from av.stream import Stream
from av.video.frame import PictureType, VideoFrame
from numpy.typing import NDArray

from model.media.picture.animation import COMPOSED, check_composed
from model.media.pyav import fraction
from model.media.types import Limits, Pictures, TooLarge, Unusable
from model.media.video import colour
from model.media.video.decode_cost import Work
from model.media.video.decode_plan import (
    needed_packets,
    places_of,
    shared_out,
    starts_of,
    without_needless,
)
from model.media.video.orientation import Aspects, Matrix, Turns
from model.media.video.packets import SELF_CHECKED, decoded, decoded_or_none, is_needless
from model.media.video.timeline import SAME_S, Timeline, is_shown_in_order, seconds

#: More threads than this wait for each other's rows.
_MAX_THREADS = 4
#: Larger frames than this, in pixels, are decoded no sooner by several, which each hold some.
_LARGEST_SHARED = 4_000_000

#: Pictures by when they are shown (s).
_Found = dict[float, NDArray[np.uint8]]


class _Decoder:
    """Frames by the time at which they are shown, asked for in the rising order of `wanted`.

    Of the frames that are not wanted, those that no other is made from are left out. So are all
    that the decoder made up, in whole or in part, for what is missing in the stream.
    """

    def __init__(self, stream: Stream, timeline: Timeline, wanted: list[float], work: Work) -> None:
        context: Any = stream.codec_context
        self._stream = stream
        self._packets = timeline.packets
        self._work = work
        self._state = timeline.state
        self._wanted = set(wanted)
        self._in_order = is_shown_in_order(stream)
        self._unit = fraction(stream.time_base)
        self._places = places_of(self._packets)
        self._starts = starts_of(self._packets, wanted)
        self._ends = {} if self._in_order else self._last_needed(wanted)
        self._end = len(self._packets)
        self._in_vain: set[int] = set()
        self._is_self_checked = context.name in SELF_CHECKED
        self._is_h264 = context.name == "h264"
        self._drained = False
        self._aspects = Aspects(stream, changes=timeline.state.changes)
        self._begin(0)

    def at(self, time: float) -> VideoFrame | None:
        """The frame shown at `time`; where it is damaged, the one before or else after it."""
        start = self._starts[time]
        if start > self._next or self._ended_early:
            self._jump(start)
        end = self._ends.get(time, len(self._packets))
        self._end = end if end >= self._next else len(self._packets)
        frame, shown = self._search(time)
        half = self._ended_early and frame is not None and frame.interlaced_frame
        if start in self._in_vain or (_is_at(shown, time) and not half):
            return frame
        return self._from_earlier(start, time) or frame

    def aspect(self, time: float) -> float:
        """Width over height of the pixels of the frame shown at `time`, once it is decoded."""
        return self._aspects.at(self._places[time])

    def matrix(self, frame: VideoFrame, time: float) -> Matrix | None:
        """The display matrix of the frame shown at `time`, which was decoded last."""
        return self._turns.of(frame, time + SAME_S)

    @property
    def _ended_early(self) -> bool:
        return self._drained and self._end < len(self._packets)

    def _from_earlier(self, start: int, time: float) -> VideoFrame | None:
        """The same, decoded from the key frame before `start` and with what follows it.

        A frame's second field may be a packet of its own, and the key frame at `start` damaged.
        Where neither gives a frame up to `time`, key frames are not what the container calls
        them: all is decoded in order from there on.
        """
        self._ends.clear()
        self._end = len(self._packets)
        earlier = next((key for key in reversed(range(start)) if self._packets[key].key), 0)
        self._jump(earlier)
        frame, shown = self._search(time)
        if earlier and (shown is None or shown > time + SAME_S):
            self._starts = dict.fromkeys(self._starts, 0)
            self._jump(0)
            frame, shown = self._search(time)
        if not _is_at(shown, time):
            self._in_vain.add(start)
        return frame

    def _search(self, time: float) -> tuple[VideoFrame | None, float | None]:
        """The frame at `time`, or else the nearest there is; and when it is shown."""
        before: tuple[VideoFrame | None, float | None] = None, None
        while decoded := self._frame():
            frame, shown = decoded
            if shown is None or shown < time - SAME_S:
                before = frame, shown if shown is not None else before[1]
                continue
            if shown <= time + SAME_S or before[0] is None:
                return frame, shown
            self._held.appendleft(decoded)
            break
        return before

    def _last_needed(self, wanted: list[float]) -> dict[float, int]:
        """Behind which packet a frame is complete, where decoding then goes on at a later one.

        The decoder is made to give what it holds there; it would otherwise be fed the packets
        behind it until it lets go of the frame.
        """
        places = self._places
        starts = [self._starts[time] for time in wanted[1:]] + [len(self._packets)]
        together = zip(wanted, starts, strict=True)
        return {time: places[time] + 1 for time, start in together if start > places[time]}

    def _jump(self, start: int) -> None:
        self._stream.codec_context.flush_buffers()
        self._begin(start)

    def _begin(self, start: int) -> None:
        self._held: deque[tuple[VideoFrame, float | None]] = deque()
        self._next = self._frame_number = start
        self._begun = start
        self._drained = False
        self._turns = Turns()
        # The first packet whose frame may be made from one that is missing; H.264's decoder keeps
        # those back itself.
        self._broken = start if self._is_self_checked else None

    def _frame(self) -> tuple[VideoFrame, float | None] | None:
        while not self._held:
            if self._next < self._end:
                self._decode(self._next)
                self._next += 1
            elif not self._drained:
                self._drained = True
                self._hold(decoded(self._stream, None))
            else:
                return None
        return self._held.popleft()

    def _decode(self, index: int) -> None:
        shown = self._packets[index]
        context: Any = self._stream.codec_context
        # Where frames are known by their number alone, none may be left out; and dav1d looks but
        # once, when it is opened, at what to leave out.
        all_needed = self._in_order or context.name == "libdav1d"
        needed = all_needed or shown.time in self._wanted
        # Threads take packets in turn: one that a thread only throws away costs its turn.
        size = self._state.length_bytes(index) if self._is_h264 and not needed else 0
        if size and is_needless(shown.packet, size):
            return
        context.skip_frame = "DEFAULT" if needed else "NONREF"
        packet = shown.packet
        if index == self._begun:
            packet = self._state.restated(index, packet)
        self._work.check_packet(packet, context.name, context.width, context.height)
        frames = decoded_or_none(self._stream, packet)
        self._work.note(context.width, context.height)
        if frames is None:  # it is the packet that the last free thread was given
            self._break(max(0, index + 1 - context.thread_count))
        if shown.key or index == self._begun:
            self._aspects.note(index)
        self._hold(frames or [])

    def _hold(self, frames: list[VideoFrame]) -> None:
        for frame in frames:
            if self._is_whole(frame):
                time = self._time(frame)
                self._held.append((frame, time))
                if frame.key_frame:
                    self._turns.note(time, frame)
            self._frame_number += 1

    def _is_whole(self, frame: VideoFrame) -> bool:
        """Whether neither the frame nor, since a key frame, one that it is made from is damaged."""
        if self._broken is None and not frame.is_corrupt:
            return True
        place = self._place(frame)
        if frame.is_corrupt:
            if frame.pict_type != PictureType.B:
                self._break(place)
            return False
        if self._broken is not None and place < self._broken:
            return True
        if frame.key_frame or (self._is_h264 and self._packets[place].key):
            self._broken = None
        return self._broken is None

    def _break(self, place: int) -> None:
        """Note that frames of packets from number `place` on may be made from a damaged one."""
        self._broken = place if self._broken is None else min(place, self._broken)

    def _place(self, frame: VideoFrame) -> int:
        """Which packet made the frame; where its time does not tell, the last one."""
        last = min(self._next, len(self._packets) - 1)
        if self._in_order:
            return min(self._frame_number, last)
        time = self._time(frame)
        return last if time is None else self._places.get(time, last)

    def _time(self, frame: VideoFrame) -> float | None:
        if self._in_order:
            return self._packets[min(self._frame_number, len(self._packets) - 1)].time
        stamp = frame.dts if frame.pts is None else frame.pts
        return None if stamp is None or self._unit is None else seconds(stamp, self._unit)


def _is_at(shown: float | None, time: float) -> bool:
    return shown is not None and abs(shown - time) <= SAME_S


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
    if context.name in COMPOSED:
        check_composed(len(timeline.packets), context.width, context.height, limits)
    first, wanted = timeline.wanted(frames)
    times = sorted(set(wanted))
    needed = needed_packets(timeline, times)
    if len(needed) * context.width * context.height > limits.max_decoded_pixels:
        needed = without_needless(stream, timeline, needed)
    work = Work(len(needed), limits)
    work.expect(context.width, context.height)
    threads = _threads(context, limits)
    shares = shared_out(timeline.packets, times, threads)
    streams = [stream, *(reopened() for _ in shares[1:])]
    read = partial(
        _read,
        timeline=timeline,
        work=work,
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
    timeline: Timeline,
    work: Work,
    limits: Limits,
    largest: int,
    threads: int,
) -> _Found:
    """The frames shown at `times`, as far as they can be decoded, as RGB of `largest` pixels."""
    context: Any = stream.codec_context
    # Of the usual codecs, H.264 alone has its frames decoded sooner by several. What changes in
    # mid-stream is known to a decoder's only thread at once.
    is_sooner = context.name == "h264" and not timeline.state.changes
    context.thread_count = threads if is_sooner else 1
    context.thread_type = "FRAME"
    context.options = {"max_pixels": str(limits.max_pixels)}
    decoder = _Decoder(stream, timeline, times, work)
    found: _Found = {}
    for time in times:
        frame = decoder.at(time)
        if frame is None:
            continue
        _check_size(frame.width, frame.height, limits)
        found[time] = _upright(
            _rgb(frame, decoder.aspect(time), largest), decoder.matrix(frame, time)
        )
    return found


def _threads(context: Any, limits: Limits) -> int:
    small = context.width * context.height <= _LARGEST_SHARED
    return min(limits.threads, _MAX_THREADS) if small else 1


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"its pictures are {width} x {height} pixels; at most {limits.max_pixels} are accepted"
        )


def _rgb(frame: VideoFrame, aspect: float, largest: int) -> NDArray[np.uint8]:
    """The frame as RGB [h, w, 3] with square pixels, at most `largest` of them."""
    width, height = frame.width * aspect, float(frame.height)
    if colour.is_wide(frame):
        largest = min(largest, colour.LARGEST_WIDE)
    shrink = min(1.0, (largest / (width * height)) ** 0.5)
    return colour.shown(frame, max(1, int(width * shrink)), max(1, int(height * shrink)))


def _upright(picture: NDArray[np.uint8], matrix: Matrix | None) -> NDArray[np.uint8]:
    """The picture turned and mirrored as its frame's display matrix says.

    A pixel (x, y) is shown at (a x + c y, b x + d y); only quarter turns and mirrors are done.
    """
    if matrix is None:
        return picture
    a, b, c, d = matrix
    if abs(b) > abs(a):
        right, down, picture = c, b, picture.transpose(1, 0, 2)
    else:
        right, down = a, d
    picture = picture[:, ::-1] if right < 0 else picture
    picture = picture[::-1] if down < 0 else picture
    return np.ascontiguousarray(picture)
