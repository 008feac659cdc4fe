"""The web application: its parts, its routes, and the order of its middleware."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector
from starlette.middleware.cors import CORSMiddleware

from service.decoding.fork_server import DecodeLimits
from service.decoding.pool import DecoderPool
from service.decoding.wire import Allocate
from service.errors import StartupError
from service.http import error_responses, openapi, unknown_paths
from service.http.middleware.access_log import AccessLog
from service.http.middleware.api_keys import KeyCheck
from service.http.middleware.body_limit import BodyLimit
from service.http.middleware.head_requests import HeadRequests
from service.http.middleware.security_headers import SecurityHeaders
from service.http.middleware.websocket_admission import WebSocketAdmission
from service.http.page import routes as page
from service.http.routes import ROUTERS
from service.http.state import State
from service.inference.local import LocalModels
from service.inference.model_server import ModelServer
from service.inference.models import Models
from service.keys import key_file
from service.keys.admission import CurrentKeys, KeyAdmission
from service.keys.keyring import Keyring
from service.keys.limit_store import LimitStore
from service.keys.rate_limit import LocalRateLimits, RateLimits, SharedRateLimits
from service.lifespan import make_lifespan
from service.observability import traces
from service.observability.metrics import Metrics, RequestMetrics
from service.observability.request_log import RequestLog
from service.observability.samples import Processes, SumCollector
from service.observability.state_metrics import ConnectionMetrics, LimitMetrics, ModelMetrics
from service.runtime import cores
from service.runtime.upload_budget import UploadBudget
from service.server.connections import Connections
from service.server.listener import connections_within_file_limit
from service.server.refusal import refuse
from service.settings import MIB, Settings
from service.streaming.slots import (
    LocalStreamLimits,
    SessionSlots,
    StreamLimits,
    windows_in_flight,
)

if TYPE_CHECKING:
    from service.grpc_api.server import GrpcServer

log = logging.getLogger("scmrl.app")

VERSION = version("scmrl")


@dataclass(frozen=True)
class Parts:
    """The parts of the app that depend on whether this process runs the networks.

    - `models`, `keys`: the checkpoints and the keys, of this process or of the engine process.
    - `limits`, `stream_limits`: the rate limits of keys, and the bounds of live streams.
    - `uploads`: the budget of request bodies in memory.
    - `decode_workers`, `stream_windows`, `max_connections`: of this process.
    - `expose`: returns `State.expose` for the collector of this process's counts.
    - `allocate`: returns an uninitialized array, into which a tensor is received.
    - `watches`: run each in a thread, until `stop` is called.
    - `store`: the shared store of limits that the app opens and closes, if it has one.
    """

    models: Models
    keys: CurrentKeys
    limits: RateLimits
    stream_limits: StreamLimits
    uploads: UploadBudget
    decode_workers: int
    stream_windows: int
    max_connections: int
    expose: Callable[[Collector], Callable[[str], Awaitable[tuple[bytes, str]]]]
    allocate: Allocate = np.empty
    watches: Sequence[Callable[[], None]] = ()
    stop: Callable[[], None] = lambda: None
    store: LimitStore | None = None


def create_app(
    settings: Settings | None = None,
    *,
    start_keys: key_file.Keys | None = None,
    hangups: Callable[[], int] = lambda: 0,
    on_ready: Callable[[], None] = lambda: None,
    on_failure: Callable[[StartupError], None] = lambda error: None,
) -> FastAPI:
    """Create the application, which runs the networks in this process. Raises KeysError.

    - `start_keys`: the keys, if they have been read already.
    - `hangups`: the number of SIGHUPs so far; keys are reloaded when it grows.
    - `on_ready`: called when the default checkpoint can answer clips.
    - `on_failure`: called when it cannot and never will; the caller must then end the process.
    """
    settings = settings or Settings()
    start_keys = start_keys or key_file.read(settings)
    keyring = Keyring(settings, start_keys, hangups)
    fail = once(on_failure)
    store = limit_store(settings)
    server = ModelServer(settings, lambda error: fail(StartupError(f"the device is lost: {error}")))

    def expose(counted: Collector) -> Callable[[str], Awaitable[tuple[bytes, str]]]:
        collectors = [ModelMetrics(server), LimitMetrics(store), counted]
        processes = Processes(lambda: [os.getpid(), *server.devices.pids])
        metrics = Metrics(VERSION, SumCollector(collectors), processes)

        async def exposition(accept: str) -> tuple[bytes, str]:
            return metrics.exposition(accept)

        return exposition

    decode_workers = settings.decode_workers or cores.available()
    parts = Parts(
        models=LocalModels(server, settings),
        keys=keyring,
        limits=LocalRateLimits() if store is None else SharedRateLimits(store),
        stream_limits=LocalStreamLimits(settings, store),
        uploads=UploadBudget(settings.max_total_upload_bytes),
        decode_workers=decode_workers,
        stream_windows=windows_in_flight(settings, decode_workers),
        max_connections=settings.max_connections,
        expose=expose,
        watches=(keyring.watch,),
        stop=keyring.stop,
        store=store,
    )
    return assemble(settings, parts, start_keys, on_ready, fail)


def limit_store(settings: Settings) -> LimitStore | None:
    """Return the shared store of limits, where the settings name one."""
    address = settings.limit_store.get_secret_value()
    return LimitStore(address, settings.limit_store_timeout_s) if address else None


def assemble(
    settings: Settings,
    parts: Parts,
    start_keys: key_file.Keys,
    on_ready: Callable[[], None],
    fail: Callable[[StartupError], None],
) -> FastAPI:
    """Return the application of `parts`: see create_app."""
    admission = KeyAdmission(parts.keys, parts.limits)
    counted = CollectorRegistry()
    state = _make_state(settings, parts, admission, counted, fail)
    tracing = traces.from_environment(VERSION)
    measure = RequestMetrics(counted).measure
    request_log = RequestLog(measure, None if tracing is None else tracing.record)
    make_grpc = _grpc_of(state, parts.uploads, request_log) if settings.grpc_port else None
    app = FastAPI(
        title="scmrl",
        summary="Spiking audio-visual classification",
        description=openapi.DESCRIPTION,
        version=VERSION,
        lifespan=make_lifespan(
            state, parts.watches, parts.stop, parts.store, tracing, make_grpc, on_ready, fail
        ),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=openapi.operation_id,
        # Relative to the description's own URL, which works behind a proxy that strips a prefix.
        servers=[{"url": "."}],
        root_path_in_servers=False,
    )
    app.state.scmrl = state
    _add_middleware(app, state, parts.uploads, request_log)
    # For requests that the server rejects before they reach the app: the same log and headers.
    app.state.refuse = SecurityHeaders(AccessLog(refuse, request_log, state.is_draining))
    error_responses.install(app)
    for router in ROUTERS:
        app.include_router(router)
    openapi.install(app, settings, start_keys)
    page.install(app, settings)
    unknown_paths.install(app)
    return app


def _make_state(
    settings: Settings,
    parts: Parts,
    admission: KeyAdmission,
    counted: CollectorRegistry,
    fail: Callable[[StartupError], None],
) -> State:
    """Create the decoders and connections, without starting them; count them in `counted`."""
    limits = DecodeLimits(
        settings.decode_timeout_s, settings.decode_memory_mib * MIB, settings.sandbox
    )
    workers = parts.decode_workers
    decoders = DecoderPool(
        workers, limits, lambda error: fail(StartupError(str(error))), parts.allocate
    )
    connections = Connections(connections_within_file_limit(parts.max_connections, workers))
    streams = SessionSlots(parts.stream_limits, parts.stream_windows)
    counted.register(ConnectionMetrics(decoders, connections, streams))
    expose = parts.expose(counted)
    return State(settings, admission, parts.models, decoders, connections, streams, expose)


def _add_middleware(
    app: FastAPI,
    state: State,
    uploads: UploadBudget,
    request_log: RequestLog,
) -> None:
    """Add middleware from the innermost to the outermost, which sees a request first."""
    settings = state.settings
    # Next to the routes, which see a GET.
    app.add_middleware(HeadRequests)
    # Inside the key check: no body is read for a client without a key.
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        budget=uploads,
        max_seconds=settings.upload_timeout_s,
        min_rate=settings.upload_min_rate,
    )
    # Inside the key check, like the routes that refuse requests then.
    app.add_middleware(
        WebSocketAdmission, is_draining=state.is_draining, origins=settings.cors_origins
    )
    # Inside the access log, which logs the key's name.
    app.add_middleware(KeyCheck, admission=state.keys)
    # Outside the key check: a browser's preflight request carries no key.
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("Authorization", "X-Request-ID"),
            expose_headers=("Retry-After", "X-Request-ID"),
        )
    # Outside everything that can fail or reject: it logs and counts, and answers bugs with 500.
    app.add_middleware(
        AccessLog,
        request_log=request_log,
        is_draining=state.is_draining,
        routes=[route for router in ROUTERS for route in router.routes],
    )
    # Outermost, so that those 500 responses have the headers too.
    app.add_middleware(SecurityHeaders)


def _grpc_of(
    state: State, uploads: UploadBudget, request_log: RequestLog
) -> Callable[[], GrpcServer]:
    """Return a function that makes the server of gRPC; it raises StartupError without grpcio."""

    def make() -> GrpcServer:
        try:
            from service.grpc_api.server import GrpcServer
        except ImportError as exc:
            detail = f"SCMRL_GRPC_PORT needs the extra grpc (pip install 'scmrl[grpc]'): {exc}"
            raise StartupError(detail, misused=True) from exc

        async def is_ready() -> bool:
            return not await state.not_ready_reason()

        return GrpcServer(
            state.models,
            is_ready,
            state.classifier,
            state.keys,
            uploads,
            request_log,
        )

    return make


def once(on_failure: Callable[[StartupError], None]) -> Callable[[StartupError], None]:
    """Return a function that logs and reports the first error, after which only a restart helps.

    Further errors are consequences: every batch on a lost device fails.
    """
    failed: list[StartupError] = []

    def fail(error: StartupError) -> None:
        failed.append(error)
        if len(failed) == 1:
            log.critical("%s", error)
            on_failure(error)

    return fail
