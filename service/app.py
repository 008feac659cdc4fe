"""The web application: its parts, its routes, and the order of its middleware."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.classification.served_classifier import ServedClassifier
from service.decoding.fork_server import DecodeLimits
from service.decoding.pool import DecoderPool
from service.errors import StartupError
from service.http import error_responses, openapi
from service.http.middleware import trailing_slashes
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
from service.keys import key_file
from service.keys.admission import KeyAdmission
from service.keys.keyring import Keyring
from service.keys.limit_store import LimitStore
from service.keys.rate_limit import SharedRateLimits
from service.lifespan import make_lifespan
from service.observability import traces
from service.observability.metrics import Metrics
from service.observability.request_log import RequestLog
from service.observability.state_metrics import StateMetrics
from service.runtime import cores
from service.runtime.upload_budget import UploadBudget
from service.server.connections import Connections
from service.server.listener import connections_within_file_limit
from service.server.refusal import refuse
from service.settings import MIB, Settings
from service.streaming.slots import SessionSlots

if TYPE_CHECKING:
    from service.grpc_api.server import GrpcServer

log = logging.getLogger("scmrl.app")

VERSION = version("scmrl")


def create_app(
    settings: Settings | None = None,
    *,
    start_keys: key_file.Keys | None = None,
    hangups: Callable[[], int] = lambda: 0,
    on_ready: Callable[[], None] = lambda: None,
    on_failure: Callable[[StartupError], None] = lambda error: None,
) -> FastAPI:
    """Create the application. Raises KeysError.

    - `start_keys`: the keys, if they have been read already.
    - `hangups`: the number of SIGHUPs so far; keys are reloaded when it grows.
    - `on_ready`: called when the default checkpoint can answer clips.
    - `on_failure`: called when it cannot and never will; the caller must then end the process.
    """
    settings = settings or Settings()
    start_keys = start_keys or key_file.read(settings)
    keyring = Keyring(settings, start_keys, hangups)
    fail = _once(on_failure)
    address = settings.limit_store.get_secret_value()
    store = LimitStore(address, settings.limit_store_timeout_s) if address else None
    admission = KeyAdmission(keyring, None if store is None else SharedRateLimits(store))
    state = _make_state(settings, admission, store, fail)
    tracing = traces.from_environment(VERSION)
    request_log = RequestLog(state.metrics.measure, None if tracing is None else tracing.record)
    uploads = UploadBudget(settings.max_total_upload_bytes)
    make_grpc = _grpc_of(state, uploads, request_log) if settings.grpc_port else None
    app = FastAPI(
        title="scmrl",
        summary="Spiking audio-visual classification",
        description=openapi.DESCRIPTION,
        version=VERSION,
        lifespan=make_lifespan(state, keyring, store, tracing, make_grpc, on_ready, fail),
        docs_url=None,
        redoc_url=None,
        # Relative to the description's own URL, which works behind a proxy that strips a prefix.
        servers=[{"url": "."}],
        root_path_in_servers=False,
    )
    app.state.scmrl = state
    _add_middleware(app, state, uploads, request_log)
    # For requests that the server rejects before they reach the app: the same log and headers.
    app.state.refuse = SecurityHeaders(AccessLog(refuse, request_log))
    error_responses.install(app)
    for router in ROUTERS:
        app.include_router(router)
    openapi.install(app, settings, start_keys)
    page.install(app, settings)
    trailing_slashes.install(app)  # last: it redirects to the routes before it
    return app


def _make_state(
    settings: Settings,
    admission: KeyAdmission,
    store: LimitStore | None,
    fail: Callable[[StartupError], None],
) -> State:
    """Create the checkpoints, decoders, connections and metrics, without starting them."""
    limits = DecodeLimits(
        settings.decode_timeout_s, settings.decode_memory_mib * MIB, settings.sandbox
    )
    workers = settings.decode_workers or cores.available()
    server = ModelServer(settings, lambda error: fail(StartupError(f"the device is lost: {error}")))
    decoders = DecoderPool(workers, limits, lambda error: fail(StartupError(str(error))))
    connections = Connections(connections_within_file_limit(settings.max_connections, workers))
    streams = SessionSlots(
        settings.stream_sessions,
        settings.stream_sessions_per_key,
        settings.stream_decoders,
        store,
    )
    state_metrics = StateMetrics(server, decoders, connections, streams, store)
    request_metrics = Metrics(state_metrics, VERSION)
    models = LocalModels(server, settings)
    return State(settings, admission, models, decoders, connections, request_metrics, streams)


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
        WebSocketAdmission,
        is_draining=lambda: state.in_flight.is_draining,
        origins=settings.cors_origins,
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
    app.add_middleware(AccessLog, request_log=request_log)
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

        classifier = ServedClassifier(state.in_flight, state.decoders, state.settings)
        return GrpcServer(
            state.models,
            is_ready,
            classifier,
            state.keys,
            uploads,
            request_log,
        )

    return make


def _once(on_failure: Callable[[StartupError], None]) -> Callable[[StartupError], None]:
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
