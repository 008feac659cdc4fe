"""What the decoder of a session did with the packets of H.264 and Opus: counts and problems."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from model.media.live.types import Decoded
from service.errors import Error
from service.streaming.messages import Failed

#: Why packets of a field are not decoded, by outcome.
_REASONS = {
    "late": "a packet came late, or twice, by its sequence number and capture time; it is dropped",
    "damaged": "a packet is damaged; it is dropped, and of H.264 all until the next key frame",
    "no_key": "packets are dropped until a key frame comes, with its parameter sets (SPS and PPS)",
    "too_large": "pictures of the video have more pixels, or need more memory, than is accepted",
    "lost": "packets are missing by their sequence numbers",
    "behind": "packets are dropped, as the decoder is more than a second behind",
}


class PacketOutcomes:
    """Counts the packets of each field by outcome (`slots.PACKET_OUTCOMES`).

    `problems`: to be sent to the client, one for each field and outcome by which packets are not
    decoded.
    """

    def __init__(self, fields: Iterable[str]) -> None:
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in fields}
        self.problems: deque[Failed] = deque()
        self._reported: set[tuple[str, str]] = set()
        self._counts_before = {name: Counter[str]() for name in self.counts}

    def add(self, name: str, outcome: str, count: int = 1) -> None:
        """Count packets of a field."""
        self.counts[name][outcome] += count
        if outcome in _REASONS and (name, outcome) not in self._reported:
            self._reported.add((name, outcome))
            error = Error.UNUSABLE
            detail = f"`{name}`: {_REASONS[outcome]}"
            self.problems.append(Failed(error=error.kind, status=error.status, detail=detail))

    def add_decoded(self, name: str, decoded: Decoded[bytes], is_end: bool) -> None:
        """Count a packet, unless it is the end of the input, and those that are missing before."""
        if not is_end:
            self.add(name, decoded.outcome.name.lower())
        if decoded.lost:
            self.add(name, "lost", decoded.lost)

    def since_last(self) -> dict[str, dict[str, int]]:
        """Return the counts since the last call."""
        since = {}
        for name, counts in self.counts.items():
            since[name] = dict(counts - self._counts_before[name])
            self._counts_before[name] = counts.copy()
        return since
