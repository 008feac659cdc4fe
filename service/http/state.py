"""What the routes share: made when the app is, found on `request.app.state`."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from service.decoding.pool import DecoderPool
from service.inference.in_flight import InFlight
from service.inference.model_server import ModelServer
from service.inference.registry import Registry
from service.observability.metrics import Metrics
from service.request_record import Account
from service.server.connections import Connections
from service.settings import Settings


@dataclass(frozen=True)
class State:
    """The settings, checkpoints, decoders, connections and metrics of one running service."""

    settings: Settings
    models: ModelServer
    decoders: DecoderPool
    connections: Connections
    metrics: Metrics

    @property
    def registry(self) -> Registry:
        return self.models.registry

    @property
    def in_flight(self) -> InFlight:
        return self.models.in_flight


def account_of(request: Request) -> Account:
    """Where a route notes what the request takes."""
    account = request.state.account
    assert isinstance(account, Account)
    return account


def state_of(request: Request) -> State:
    state = request.app.state.scmrl
    assert isinstance(state, State)
    return state
