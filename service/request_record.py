"""The record of one request: filled in while it is processed, read when it is complete."""

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

#: Id of the current request, in its task and in the threads that work for it.
request_id: ContextVar[str | None] = ContextVar("scmrl_request_id", default=None)

#: Health checks and scrapes.
_QUIET = frozenset(
    {"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready",
     "/grpc.health.v1.Health/Check", "/inference.GRPCInferenceService/ServerLive",
     "/inference.GRPCInferenceService/ServerReady"}
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One stage of a request, in seconds of time.perf_counter. `failed`: it raised."""

    name: str
    started: float
    ended: float
    failed: bool = False

    @property
    def seconds(self) -> float:
        return self.ended - self.started


@dataclass
class RequestRecord:
    """The record of one request.

    - `model`: name of the checkpoint, once it is known to exist.
    - `stages`: in the order in which they were noted.
    - `firing_rates`: of its streams, in spikes per neuron and step.
    - `degraded`: whether the load lowered the time steps T.
    - `notes`: fields of the access log; never the content of uploads.
    - `problem`: of one clip of several, where it was refused.
    - `clips`: the records of several clips, each as if it were a request.
    """

    model: str | None = None
    stages: list[Stage] = field(default_factory=list)
    firing_rates: dict[str, float] = field(default_factory=dict)
    degraded: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None
    clips: list[RequestRecord] = field(default_factory=list)

    def begin_clip(self) -> RequestRecord:
        """Return the record of a further clip of this request."""
        clip = RequestRecord(model=self.model)
        self.clips.append(clip)
        return clip

    @property
    def parts(self) -> tuple[RequestRecord, ...]:
        """This record and those of its clips."""
        return (self, *self.clips)

    def add_stages(self, *stages: tuple[str, float]) -> None:
        """Note consecutive stages, each with its seconds, of which the last ends now."""
        ended = time.perf_counter()
        for name, seconds in reversed(stages):
            self.stages.append(Stage(name, ended - seconds, ended))
            ended -= seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note the block as a stage, in a context manager."""
        started = time.perf_counter()
        failed = True
        try:
            yield
            failed = False
        finally:
            self.stages.append(Stage(name, started, time.perf_counter(), failed))

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Note the block as a failed stage if it raises; the caller notes the stages otherwise."""
        started = time.perf_counter()
        try:
            yield
        except BaseException:
            self.stages.append(Stage(name, started, time.perf_counter(), failed=True))
            raise


@dataclass(frozen=True)
class CompletedRequest:
    """A completed request, for metrics, traces and the access log.

    - `route`: template of its path, None where no route matches.
    - `status`: 499 where the client disconnected before the response, 101 of a WebSocket.
    - `started`, `ended`: in seconds of time.perf_counter.
    """

    id: str
    method: str
    path: str
    route: str | None
    headers: Headers
    status: int
    started: float
    ended: float
    record: RequestRecord
    problem: Problem | None

    @property
    def quiet(self) -> bool:
        """Whether it is a successful health check or scrape."""
        return self.path in _QUIET and self.status == 200

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of its line in the access log."""
        fields: dict[str, Any] = {
            "id": self.id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "duration_ms": round(1000 * (self.ended - self.started), 1),
        }
        if self.record.model is not None:
            fields["model"] = self.record.model
        fields |= self.record.notes
        if self.problem is not None:
            fields |= {"error": self.problem.error.kind, "detail": self.problem.detail}
        return fields
