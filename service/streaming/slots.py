"""The sessions that are open, of the service and of each key, and what they did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from model.media.live.types import Outcome
from service.streaming.messages import TOO_MANY, StreamError

#: Outcomes of a window.
OUTCOMES = ("answered", "skipped", "failed")
#: Outcomes of a packet of H.264 or Opus: those of `Outcome`, lost before it came, and dropped
#: since the decoder was behind.
PACKET_OUTCOMES = (*(outcome.name.lower() for outcome in Outcome), "lost", "behind")


class SessionSlots:
    """Bounds the open sessions. Used by the event loop alone.

    `windows`: windows of all sessions so far, `answered`, `skipped` or `failed`. `packets`: packets
    of all sessions so far, by outcome. `decoders`: sessions that have a decoder of their own;
    `decoders_lost`: those that were lost.
    """

    def __init__(self, most: int, most_of_a_key: int, most_decoders: int) -> None:
        self.windows: Counter[str] = Counter()
        self.packets: Counter[str] = Counter()
        self.decoders = self.decoders_lost = 0
        self._most = most
        self._most_of_a_key = most_of_a_key
        self._most_decoders = most_decoders
        self._by_key: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._by_key.total()

    @contextmanager
    def session(self, key: str) -> Iterator[None]:
        """Hold a slot for a session of a key ("": without one). Raises StreamError."""
        if len(self) >= self._most:
            raise StreamError(
                TOO_MANY, f"{self._most} streams are open (SCMRL_STREAM_SESSIONS); retry later"
            )
        if key and self._by_key[key] >= self._most_of_a_key:
            raise StreamError(TOO_MANY, f"the key has {self._most_of_a_key} streams open already")
        self._by_key[key] += 1
        try:
            yield
        finally:
            self._by_key[key] -= 1
            self._by_key += Counter()  # drops keys without a session

    @contextmanager
    def decoder(self) -> Iterator[None]:
        """Hold a slot for the decoder of a session. Raises StreamError."""
        if self.decoders >= self._most_decoders:
            raise StreamError(
                TOO_MANY,
                f"{self.decoders} streams of H.264 or Opus are open (SCMRL_STREAM_DECODERS); "
                "retry later, or send JPEG and PCM",
            )
        self.decoders += 1
        try:
            yield
        finally:
            self.decoders -= 1
