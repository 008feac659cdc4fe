"""Decode single frames of a video by the time at which they are shown."""

from __future__ import annotations

from collections import deque
from typing import Any

from av.stream import Stream
from av.video.frame import PictureType, VideoFrame

from model.media.pyav import to_fraction
from model.media.video.decode_budget import DecodeBudget
from model.media.video.decode_plan import index_by_time, start_packets
from model.media.video.orientation import DisplayMatrices, Matrix, SampleAspectRatios
from model.media.video.packets import (
    RELIABLE_KEY_FRAMES,
    decode,
    decode_or_none,
    is_non_reference,
)
from model.media.video.time_stamps import TIME_TOLERANCE_S, lacks_pts, to_seconds
from model.media.video.timeline import Timeline


class FrameDecoder:
    """Decode the frames shown at given times, requested in ascending order.

    Non-reference frames at other times are skipped. Frames that the decoder concealed, completely
    or in part, are discarded, and so are frames predicted from them.
    """

    def __init__(
        self, stream: Stream, timeline: Timeline, times: list[float], budget: DecodeBudget
    ) -> None:
        context: Any = stream.codec_context
        self._stream = stream
        self._packets = timeline.packets
        self._budget = budget
        self._state = timeline.state
        self._times = set(times)
        self._lacks_pts = lacks_pts(stream)
        self._unit = to_fraction(stream.time_base)
        self._indices = index_by_time(self._packets)
        self._starts = start_packets(self._packets, times)
        self._ends = {} if self._lacks_pts else self._frame_ends(times)
        self._end = len(self._packets)
        self._failed_starts: set[int] = set()
        self._reports_key_frames = context.name in RELIABLE_KEY_FRAMES
        self._is_h264 = context.name == "h264"
        self._is_drained = False
        self._aspects = SampleAspectRatios(stream, changes=timeline.state.changes)
        self._reset(0)

    def frame_at(self, time: float) -> VideoFrame | None:
        """Return the frame shown at `time`; if it is damaged, the one before or else after it."""
        start = self._starts[time]
        if start > self._next or self._was_drained_early:
            self._seek(start)
        end = self._ends.get(time, len(self._packets))
        self._end = end if end >= self._next else len(self._packets)
        frame, shown_at = self._search(time)
        may_lack_field = self._was_drained_early and frame is not None and frame.interlaced_frame
        if start in self._failed_starts or (_is_same_time(shown_at, time) and not may_lack_field):
            return frame
        return self._retry_from_earlier_key_frame(start, time) or frame

    def aspect_at(self, time: float) -> float:
        """Return the sample aspect ratio of the frame shown at `time`, after it was decoded."""
        return self._aspects.at(self._indices[time])

    def matrix_at(self, frame: VideoFrame, time: float) -> Matrix | None:
        """Return the display matrix of the frame shown at `time`, which was decoded last."""
        return self._matrices.at(frame, time + TIME_TOLERANCE_S)

    @property
    def _was_drained_early(self) -> bool:
        return self._is_drained and self._end < len(self._packets)

    def _retry_from_earlier_key_frame(self, start: int, time: float) -> VideoFrame | None:
        """Search again from the key frame before `start`, without draining the decoder early.

        The second field of a frame may be a packet of its own, and the key frame at `start` may
        be damaged. If this finds no frame up to `time` either, the container's key frame flags
        are wrong: decode everything in order from then on.
        """
        self._ends.clear()
        self._end = len(self._packets)
        earlier = next((key for key in reversed(range(start)) if self._packets[key].is_key), 0)
        self._seek(earlier)
        frame, shown_at = self._search(time)
        if earlier and (shown_at is None or shown_at > time + TIME_TOLERANCE_S):
            self._starts = dict.fromkeys(self._starts, 0)
            self._seek(0)
            frame, shown_at = self._search(time)
        if not _is_same_time(shown_at, time):
            self._failed_starts.add(start)
        return frame

    def _search(self, time: float) -> tuple[VideoFrame | None, float | None]:
        """Return the frame at `time`, or the nearest one, and when it is shown."""
        before: tuple[VideoFrame | None, float | None] = None, None
        while entry := self._next_frame():
            frame, shown_at = entry
            if shown_at is None or shown_at < time - TIME_TOLERANCE_S:
                before = frame, shown_at if shown_at is not None else before[1]
                continue
            if shown_at <= time + TIME_TOLERANCE_S or before[0] is None:
                return frame, shown_at
            self._frames.appendleft(entry)
            break
        return before

    def _frame_ends(self, times: list[float]) -> dict[float, int]:
        """Return behind which packet each frame is complete, if decoding then seeks forward.

        The decoder is drained there. Otherwise it would need more packets before it outputs the
        frame.
        """
        indices = self._indices
        next_starts = [self._starts[time] for time in times[1:]] + [len(self._packets)]
        pairs = zip(times, next_starts, strict=True)
        return {time: indices[time] + 1 for time, start in pairs if start > indices[time]}

    def _seek(self, start: int) -> None:
        self._stream.codec_context.flush_buffers()
        self._reset(start)

    def _reset(self, start: int) -> None:
        self._frames: deque[tuple[VideoFrame, float | None]] = deque()
        self._next = self._frame_number = start
        self._start = start
        self._is_drained = False
        self._matrices = DisplayMatrices()
        # The first packet whose frame may be predicted from a missing one. The decoder of H.264
        # holds such frames back itself.
        self._damaged_from = start if self._reports_key_frames else None

    def _next_frame(self) -> tuple[VideoFrame, float | None] | None:
        while not self._frames:
            if self._next < self._end:
                self._decode(self._next)
                self._next += 1
            elif not self._is_drained:
                self._is_drained = True
                self._add_frames(decode(self._stream, None))
            else:
                return None
        return self._frames.popleft()

    def _decode(self, index: int) -> None:
        timed_packet = self._packets[index]
        context: Any = self._stream.codec_context
        # Without presentation times frames are counted, so none may be skipped. dav1d reads
        # skip_frame only when it is opened.
        needs_all = self._lacks_pts or context.name == "libdav1d"
        is_needed = needs_all or timed_packet.time in self._times
        # Threads take packets in turn. A skipped packet costs a thread its turn, so drop it here.
        size = self._state.unit_length_size(index) if self._is_h264 and not is_needed else 0
        if size and is_non_reference(timed_packet.packet, size):
            return
        context.skip_frame = "DEFAULT" if is_needed else "NONREF"
        packet = timed_packet.packet
        if index == self._start:
            packet = self._state.with_state(index, packet)
        self._budget.check_packet(packet, context.name, context.width, context.height)
        frames = decode_or_none(self._stream, packet)
        self._budget.count_packet(context.width, context.height)
        if frames is None:  # the error belongs to the packet that the last free thread received
            self._mark_damaged(max(0, index + 1 - context.thread_count))
        if timed_packet.is_key or index == self._start:
            self._aspects.record(index)
        self._add_frames(frames or [])

    def _add_frames(self, frames: list[VideoFrame]) -> None:
        for frame in frames:
            if self._is_intact(frame):
                time = self._frame_time(frame)
                self._frames.append((frame, time))
                if frame.key_frame:
                    self._matrices.record(time, frame)
            self._frame_number += 1

    def _is_intact(self, frame: VideoFrame) -> bool:
        """Return whether neither the frame nor, since a key frame, a reference is damaged."""
        if self._damaged_from is None and not frame.is_corrupt:
            return True
        index = self._packet_index(frame)
        if frame.is_corrupt:
            if frame.pict_type != PictureType.B:
                self._mark_damaged(index)
            return False
        if self._damaged_from is not None and index < self._damaged_from:
            return True
        if frame.key_frame or (self._is_h264 and self._packets[index].is_key):
            self._damaged_from = None
        return self._damaged_from is None

    def _mark_damaged(self, index: int) -> None:
        """Record that frames from packet `index` on may be predicted from a damaged one."""
        if self._damaged_from is None:
            self._damaged_from = index
        self._damaged_from = min(index, self._damaged_from)

    def _packet_index(self, frame: VideoFrame) -> int:
        """Return the index of the frame's packet; the last one if its time is unknown."""
        last = min(self._next, len(self._packets) - 1)
        if self._lacks_pts:
            return min(self._frame_number, last)
        time = self._frame_time(frame)
        return last if time is None else self._indices.get(time, last)

    def _frame_time(self, frame: VideoFrame) -> float | None:
        if self._lacks_pts:
            return self._packets[min(self._frame_number, len(self._packets) - 1)].time
        stamp = frame.dts if frame.pts is None else frame.pts
        return None if stamp is None or self._unit is None else to_seconds(stamp, self._unit)


def _is_same_time(shown_at: float | None, time: float) -> bool:
    return shown_at is not None and abs(shown_at - time) <= TIME_TOLERANCE_S
