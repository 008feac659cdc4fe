"""What one request took: filled in while it is worked on, read when it has been answered."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from service.errors import Problem

#: The id of the request that is being worked on, here and in the threads that work for it.
request_id: ContextVar[str | None] = ContextVar("scmrl_request_id", default=None)

_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


@dataclass(frozen=True)
class Stage:
    """A part of the work, in seconds of time.perf_counter. `failed`: it did not come to its end."""

    name: str
    started: float
    ended: float
    failed: bool = False

    @property
    def seconds(self) -> float:
        return self.ended - self.started


@dataclass
class Account:
    """`model`: the checkpoint that was asked, once it is known to be one. `firing_rates` of its
    streams, in spikes per neuron and step. `degraded`: whether it was run for fewer time steps
    because of the load. `notes` are for the log: uploads never belong there.
    """

    model: str | None = None
    stages: list[Stage] = field(default_factory=list)
    firing_rates: dict[str, float] = field(default_factory=dict)
    degraded: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    def lasted(self, *stages: tuple[str, float]) -> None:
        """Note stages, each with its seconds, of which one followed the other until now."""
        ended = time.perf_counter()
        for name, seconds in reversed(stages):
            self.stages.append(Stage(name, ended - seconds, ended))
            ended -= seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note the block as a stage."""
        started = time.perf_counter()
        failed = True
        try:
            yield
            failed = False
        finally:
            self.stages.append(Stage(name, started, time.perf_counter(), failed))

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Note the block as a stage where it fails; its end tells what else it was."""
        started = time.perf_counter()
        try:
            yield
        except BaseException:
            self.stages.append(Stage(name, started, time.perf_counter(), failed=True))
            raise


@dataclass(frozen=True)
class Answered:
    """A request and what became of it, in seconds of time.perf_counter.

    `route` is its template, None where nothing is at its path; `status` is 499 where the client
    had gone.
    """

    id: str
    method: str
    path: str
    route: str | None
    headers: Headers
    status: int
    started: float
    ended: float
    account: Account
    problem: Problem | None

    @property
    def quiet(self) -> bool:
        """Whether it is what a supervisor asks for all day, and got."""
        return self.path in _QUIET and self.status == 200

    @property
    def fields(self) -> Mapping[str, Any]:
        """What the log has of it."""
        told: dict[str, Any] = {
            "id": self.id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "duration_ms": round(1000 * (self.ended - self.started), 1),
        }
        if self.account.model is not None:
            told["model"] = self.account.model
        told |= self.account.notes
        if self.problem is not None:
            told |= {"error": self.problem.error.name.lower(), "detail": self.problem.detail}
        return told
