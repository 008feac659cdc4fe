"""The lifespan of the app: its background threads, started and stopped with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from fastapi import FastAPI

from service.decoding.availability import DecodingUnavailable
from service.decoding.job import DecodeRequest
from service.decoding.pool import DecoderPool
from service.errors import Problem, StartupError
from service.http.state import State
from service.inference.loading import LOAD_THREAD
from service.keys.limit_store import LimitStore
from service.observability.traces import Traces
from service.runtime import garbage_collection, switch_interval
from service.runtime.daemon_thread import in_thread

if TYPE_CHECKING:
    from model.checkpoint import Card
    from service.grpc_api.server import GrpcServer


def make_lifespan(
    state: State,
    watches: Sequence[Callable[[], None]],
    stop_watches: Callable[[], None],
    store: LimitStore | None,
    tracing: Traces | None,
    make_grpc: Callable[[], GrpcServer] | None,
    on_ready: Callable[[], None],
    on_failure: Callable[[StartupError], None],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the lifespan of an app.

    It starts the decoders, the watches, the store of limits, the server of gRPC and the loading of
    checkpoints in the background, and stops them in the order of their dependencies.
    """
    models, decoders = state.models, state.decoders

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        switch_interval.shorten()
        models.start()
        decoders.start()
        for watch in (decoders.watch, *watches):
            threading.Thread(target=watch, name="scmrl-watch", daemon=True).start()
        await _open(store, on_failure)
        loading = asyncio.create_task(_load(state, on_ready, on_failure))
        grpc_server = await _start_grpc(make_grpc, on_failure)
        try:
            yield
        finally:
            if grpc_server is not None:
                await grpc_server.stop()
            stop_watches()
            if store is not None:
                await store.close()
            await asyncio.to_thread(models.stop)  # it waits for running batches
            loading.cancel()  # its thread ends when it detects that the service stops
            with suppress(asyncio.CancelledError):
                await loading
            decoders.stop()
            if tracing is not None:
                await asyncio.to_thread(tracing.stop)

    return lifespan


async def _open(store: LimitStore | None, on_failure: Callable[[StartupError], None]) -> None:
    """Open the shared store of limits, if one is configured."""
    try:
        if store is not None:
            await store.open()
    except StartupError as exc:
        on_failure(exc)


async def _start_grpc(
    make: Callable[[], GrpcServer] | None, on_failure: Callable[[StartupError], None]
) -> GrpcServer | None:
    """Make and start the server of gRPC, if one is configured."""
    if make is None:
        return None
    try:
        server = make()
        await server.start()
    except StartupError as exc:
        on_failure(exc)
        return None
    return server


async def _load(
    state: State, on_ready: Callable[[], None], on_failure: Callable[[StartupError], None]
) -> None:
    """Load in the background: uvicorn does not listen before the lifespan's start-up returns."""
    try:
        with garbage_collection.disabled():
            card = await state.models.load_default()
            can_answer = await in_thread(LOAD_THREAD, lambda: _self_test(state.decoders, card))
    except StartupError as exc:
        on_failure(exc)
        return
    except Problem:
        return  # the service is shutting down
    if can_answer:
        on_ready()
    await state.models.load_others()
    garbage_collection.freeze()


def _self_test(decoders: DecoderPool, card: Card) -> bool:
    """Test the decoders; return whether clips can be answered. Raises StartupError."""
    try:
        return decoders.run_self_test(DecodeRequest.from_card(card, card.steps))
    except DecodingUnavailable as exc:
        raise StartupError(str(exc)) from exc
