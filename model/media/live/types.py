"""The outcome of decoding a packet of a live stream; imports no decoder."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T")

#: Rate of sound decoded from Opus in Hz, whatever that of the sound before it was encoded.
SAMPLE_RATE = 48_000


class Outcome(IntEnum):
    """The outcome of a packet.

    `DECODED` stands as well for a picture that is shown later or that no window needs.
    """

    DECODED = 0
    LATE = 1
    DAMAGED = 2
    NO_KEY = 3
    TOO_LARGE = 4


@dataclass(frozen=True)
class Packet:
    """A coded packet: of the input of this number, captured at `time_ns`.

    `sequence`: counts the packets of the input, modulo 2^32. `restarts`: it is the first of
    its segment, in which no earlier picture belongs, and the sequence may begin anew. `segment`: of
    the session, for the caller's own use. Without `data` it is the end of the input.
    """

    input: int
    sequence: int
    time_ns: int
    restarts: bool
    data: bytes
    segment: int = 0

    @property
    def is_end(self) -> bool:
        return not self.data


@dataclass(frozen=True)
class Decoded(Generic[T]):
    """The outcome of a packet, the packets `lost` before it, and what was decoded by capture time
    in ns."""

    outcome: Outcome
    lost: int = 0
    pieces: tuple[tuple[int, T], ...] = ()
