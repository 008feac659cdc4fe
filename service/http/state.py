"""The state that routes share, on `request.app.state`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property

from starlette.requests import HTTPConnection

from service.classification.served_classifier import ServedClassifier
from service.decoding.pool import DecoderPool
from service.inference.models import Checkpoints, Models, Requests
from service.keys.admission import KeyAdmission
from service.keys.key_file import Key
from service.request_record import RequestRecord
from service.server.connections import Connections
from service.settings import Settings
from service.streaming.slots import SessionSlots


@dataclass(frozen=True)
class State:
    """The settings, keys, checkpoints, decoders, connections and live streams of one running
    service. `expose` returns its metrics in the best format that an Accept header allows, and their
    content type."""

    settings: Settings
    keys: KeyAdmission
    models: Models
    decoders: DecoderPool
    connections: Connections
    streams: SessionSlots
    expose: Callable[[str], Awaitable[tuple[bytes, str]]]

    @cached_property
    def classifier(self) -> ServedClassifier:
        return ServedClassifier(self.in_flight, self.decoders, self.settings)

    @property
    def registry(self) -> Checkpoints:
        return self.models.registry

    @property
    def in_flight(self) -> Requests:
        return self.models.in_flight

    def is_draining(self) -> bool:
        return self.in_flight.is_draining

    async def not_ready_reason(self) -> str:
        """Return why no clip can be answered now; "" if it can."""
        reasons = (
            await self.models.not_ready_reason(),
            self.decoders.not_ready_reason(self.settings.stalled_after_s),
        )
        return " ".join(filter(None, reasons))


def record_of(request: HTTPConnection) -> RequestRecord:
    """Return the record of a request or WebSocket."""
    record = request.state.record
    assert isinstance(record, RequestRecord)
    return record


def state_of(request: HTTPConnection) -> State:
    state = request.app.state.scmrl
    assert isinstance(state, State)
    return state


async def count_clips(request: HTTPConnection, clips: int) -> None:
    """Count the clips of a request towards the rate limit of its key."""
    key: Key | None = getattr(request.state, "key", None)
    await state_of(request).keys.count_clips(key, clips)
