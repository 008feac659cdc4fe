"""When a request is sent again: after 429 and 503 with Retry-After, after a lost connection, and
where a proxy has lost its instance of the service.

A classification changes nothing in the service, so it may be sent twice.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

from .errors import ClientError, ProblemError, UnreachableError

#: Statuses that say nothing about the request, so that it may be sent again.
_RETRIED = frozenset({429, 503})
#: Statuses of proxies whose instance died or is not there; Ray Serve's says 500.
_OF_PROXIES = frozenset({500, 502, 503})

#: Most doublings of a wait: 2.0**1024 is an OverflowError, after 1024 attempts.
_MAX_DOUBLINGS = 64


class ConnectionLostError(UnreachableError):
    """The connection could not be made, or was lost before the answer."""


@dataclass(frozen=True)
class Retries:
    """Bounds of the retries of one call.

    - `retries`: how often it is sent again; 0: never.
    - `max_wait_s`: seconds that it may wait between its attempts, together. A Retry-After that
      exceeds what is left is not waited for.
    - `backoff_s`, `max_backoff_s`: bound of the first wait without Retry-After, in seconds; it
      doubles with each up to the second bound. A wait is drawn from 0 to its bound. After a
      Retry-After, up to `backoff_s` is added, so that clients do not all return at once.
    """

    retries: int = 2
    max_wait_s: float = 30.0
    backoff_s: float = 0.25
    max_backoff_s: float = 8.0

    def __post_init__(self) -> None:
        if self.retries < 0 or self.max_wait_s < 0 or self.backoff_s < 0:
            raise ValueError(f"{self}: every value must be 0 or more")

    def begin(self) -> Attempts:
        """Return the attempts of one call."""
        return Attempts(self)


@dataclass
class Attempts:
    """The attempts of one call: how many have failed, and since when, by time.monotonic."""

    retries: Retries
    failed: int = 0
    began: float = field(default_factory=time.monotonic)

    def wait_s(self, error: ClientError) -> float:
        """Return the seconds to wait before the next attempt; raise `error` if there is none."""
        bounds = self.retries
        if self.failed >= bounds.retries or not _may_retry(error):
            raise error
        after = error.retry_after_s if isinstance(error, ProblemError) else None
        if after is None:
            doublings = min(self.failed, _MAX_DOUBLINGS)
            bound = min(bounds.backoff_s * 2**doublings, bounds.max_backoff_s)
            wait = random.uniform(0, bound)
        else:
            wait = after + random.uniform(0, bounds.backoff_s)
        remaining = bounds.max_wait_s - (time.monotonic() - self.began)
        if max(after or 0.0, 0.0) > remaining:
            raise error
        self.failed += 1
        return min(wait, max(remaining, 0.0))


def _may_retry(error: ClientError) -> bool:
    if isinstance(error, ProblemError):
        if error.of_proxy and error.status in _OF_PROXIES:
            return True
        return error.status in _RETRIED and error.retry_after_s is not None
    return isinstance(error, ConnectionLostError)
