"""Plan the decoding of a video: which packets, from which key frames, in which parallel parts."""

from __future__ import annotations

from av.stream import Stream

from model.media.video.packets import is_non_reference
from model.media.video.time_stamps import TIME_TOLERANCE_S, TimedPacket
from model.media.video.timeline import Timeline

#: Decode in parallel only if the most expensive part is this many times cheaper than all.
_MIN_SPEEDUP = 1.5


def index_by_time(packets: list[TimedPacket]) -> dict[float, int]:
    """Return the index of the packet whose frame is shown at each time."""
    return {packet.time: index for index, packet in enumerate(packets)}


def start_packets(packets: list[TimedPacket], times: list[float]) -> dict[float, int]:
    """Return, for each time, the index of the last packet at which decoding can start.

    If an mp4 contains fragments twice, the container discards the second ones, which have the
    same times.
    """
    keys = [index for index, packet in enumerate(packets) if packet.is_key]

    def rank(index: int) -> tuple[float, bool, int]:
        return packets[index].time, not packets[index].packet.is_discard, index

    def start(time: float) -> int:
        before = [index for index in keys if packets[index].time <= time + TIME_TOLERANCE_S]
        return max(before, key=rank, default=0)

    return {time: start(time) for time in times}


def packets_to_decode(timeline: Timeline, times: list[float]) -> list[int]:
    """Return the indices of the packets that are decoded for `times`, if none is damaged.

    For H.264 fewer may be decoded: see `drop_non_reference`.
    """
    indices = index_by_time(timeline.packets)
    ends: dict[int, int] = {}
    for time, start in start_packets(timeline.packets, times).items():
        ends[start] = max(ends.get(start, 0), indices[time] + 1)
    return sorted({index for start, end in ends.items() for index in range(start, end)})


def drop_non_reference(stream: Stream, timeline: Timeline, indices: list[int]) -> list[int]:
    """Return `indices` without H.264 packets that hold non-reference slices only."""
    if stream.codec_context.name != "h264":
        return indices
    packets, state = timeline.packets, timeline.state
    sizes = {index: state.unit_length_size(index) for index in indices}
    return [
        index
        for index, size in sizes.items()
        if not size or not is_non_reference(packets[index].packet, size)
    ]


def split_at_key_frames(
    packets: list[TimedPacket], times: list[float], max_parts: int
) -> list[list[float]]:
    """Split `times` into at most `max_parts` parts that are decoded in parallel.

    Frames that are decoded from the same key frame stay together. Returns one part if more would
    not be much faster.
    """
    if max_parts == 1:
        return [times]
    groups: dict[int, list[float]] = {}
    for time, start in start_packets(packets, times).items():
        groups.setdefault(start, []).append(time)
    if len(groups) < 2:
        return [times]
    indices = index_by_time(packets)
    costs = {start: max(1, indices[group[-1]] + 1 - start) for start, group in groups.items()}
    parts: list[list[float]] = [[] for _ in range(min(max_parts, len(groups)))]
    loads = [0] * len(parts)
    for start in sorted(groups, key=lambda start: -costs[start]):
        least = loads.index(min(loads))
        parts[least] += groups[start]
        loads[least] += costs[start]
    if sum(loads) < _MIN_SPEEDUP * max(loads):
        return [times]
    return [sorted(part) for part in parts]
