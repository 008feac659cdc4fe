"""Which packets of a video have to be decoded, from which key frames on, and in which shares."""

from __future__ import annotations

from av.stream import Stream

from model.media.video.packets import is_needless
from model.media.video.timeline import SAME_S, Shown, Timeline

#: How many times less the longest share must be than all, or it is not worth a decoder of its own.
_MUCH_SOONER = 1.5


def places_of(packets: list[Shown]) -> dict[float, int]:
    """Which packet makes the frame that is shown at a time."""
    return {shown.time: index for index, shown in enumerate(packets)}


def starts_of(packets: list[Shown], wanted: list[float]) -> dict[float, int]:
    """For each time that is wanted, the last packet to begin decoding at.

    Where fragments come twice, the container discards the second ones, at the same times.
    """
    keys = [index for index, packet in enumerate(packets) if packet.key]

    def rank(index: int) -> tuple[float, bool, int]:
        return packets[index].time, not packets[index].packet.is_discard, index

    def start(time: float) -> int:
        before = [index for index in keys if packets[index].time <= time + SAME_S]
        return max(before, key=rank, default=0)

    return {time: start(time) for time in wanted}


def needed_packets(timeline: Timeline, wanted: list[float]) -> list[int]:
    """The numbers of the packets that are decoded for the times that are wanted, if all goes well.

    Of H.264, that may be less: see `without_needless`.
    """
    places = places_of(timeline.packets)
    ends: dict[int, int] = {}
    for time, start in starts_of(timeline.packets, wanted).items():
        ends[start] = max(ends.get(start, 0), places[time] + 1)
    return sorted({index for start, end in ends.items() for index in range(start, end)})


def without_needless(stream: Stream, timeline: Timeline, numbers: list[int]) -> list[int]:
    """The same without packets of H.264 that no other is made from."""
    if stream.codec_context.name != "h264":
        return numbers
    packets, state = timeline.packets, timeline.state
    sizes = {index: state.length_bytes(index) for index in numbers}
    return [
        at for at, size in sizes.items() if not size or not is_needless(packets[at].packet, size)
    ]


def shared_out(packets: list[Shown], wanted: list[float], most: int) -> list[list[float]]:
    """The times that are wanted, in at most `most` shares that are decoded apart.

    What is decoded from one key frame on stays together. It is one share where two or more would
    not be done much sooner.
    """
    if most == 1:
        return [wanted]
    groups: dict[int, list[float]] = {}
    for time, start in starts_of(packets, wanted).items():
        groups.setdefault(start, []).append(time)
    if len(groups) < 2:
        return [wanted]
    places = places_of(packets)
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
