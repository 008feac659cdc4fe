"""Requests in flight: counted by checkpoint, and drained before the service stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from service.errors import Error, Problem
from service.inference.registry import Registry
from service.inference.served_model import ServedModel


class Counts(Protocol):
    """How many requests are in flight: see InFlight."""

    @property
    def is_draining(self) -> bool: ...

    @property
    def total(self) -> int: ...

    @property
    def unanswered(self) -> int: ...

    def drain(self) -> None: ...

    def count(self, model: ServedModel) -> int: ...

    def forget(self, model: ServedModel) -> None: ...


class InFlight:
    """Counts requests from their start to their answer. Counted by the event loop alone.

    State: serving -> draining. While draining, new requests are rejected and those in flight are
    answered.
    """

    def __init__(self, registry: Registry[ServedModel]) -> None:
        self._registry = registry
        self._by_model: Counter[ServedModel] = Counter()
        self._cancelled = 0  # while draining
        self._is_draining = False

    def drain(self) -> None:
        """Reject new requests from now on."""
        self._is_draining = True

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    @contextmanager
    def request(self, name: str) -> Iterator[ServedModel]:
        """Hold a checkpoint for one request: until the block ends it is not unloaded.

        Raises Problem as Registry.get does, and STOPPING while draining.
        """
        if self._is_draining:
            raise stopping()
        model = self._registry.get(name)
        self._by_model[model] += 1
        try:
            yield model
        except asyncio.CancelledError:  # by the server, at the end of the grace period
            self._cancelled += self._is_draining
            raise
        finally:
            self._by_model[model] -= 1

    def count(self, model: ServedModel) -> int:
        """Return the requests in flight of one checkpoint."""
        return self._by_model[model]

    def forget(self, model: ServedModel) -> None:
        """Drop the count of a checkpoint that is not served any more, so that it can be freed."""
        self._by_model.pop(model, None)

    @property
    def total(self) -> int:
        """Requests in flight."""
        return sum(self._by_model.values())

    @property
    def unanswered(self) -> int:
        """Accepted requests without an answer, or with a 503 at the end of the grace period."""
        return self.total + self._cancelled


def stopping() -> Problem:
    """Return the problem of a request that comes while the service drains."""
    detail = "The service is shutting down. Send the request to another instance."
    return Problem(Error.STOPPING, detail, retry_after_s=5)
