"""What the routes share: made when the app is, found on `request.app.state`."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from service.decoding.pool import Decoders
from service.registry import Registry
from service.settings import Settings


@dataclass(frozen=True)
class State:
    """The settings, the checkpoints and the decoders of one running service."""

    settings: Settings
    registry: Registry
    decoders: Decoders


def state_of(request: Request) -> State:
    state = request.app.state.scmrl
    assert isinstance(state, State)
    return state
