"""The web application: routes, errors, limits, and checkpoints loaded behind its back."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from service.classification.schemas import ErrorBody
from service.decoding.availability import DecodingUnavailable
from service.decoding.fork_server import DecodeLimits
from service.decoding.job import DecodeRequest
from service.decoding.pool import DecoderPool
from service.errors import Problem, StartupError
from service.http import error_responses
from service.http.middleware import api_keys, trailing_slashes
from service.http.middleware.access_log import AccessLog
from service.http.middleware.api_keys import KeyCheck
from service.http.middleware.body_limit import BodyLimit
from service.http.middleware.head_requests import HeadRequests
from service.http.middleware.security_headers import SecurityHeaders, page_policy
from service.http.routes import admin, classify, health, metrics
from service.http.routes import models as models_route
from service.http.routes.responses import SCHEMA_NAME
from service.http.state import State
from service.inference import loading
from service.inference.model_server import ModelServer
from service.keys import key_file
from service.keys.keyring import Keyring
from service.observability import traces
from service.observability.metrics import Metrics
from service.observability.state_metrics import StateMetrics
from service.request_record import CompletedRequest
from service.runtime import cores, gc
from service.runtime.daemon_thread import in_thread
from service.server.connections import Connections
from service.server.listener import connections_within_file_limit
from service.server.refusal import refuse
from service.settings import MIB, Settings

log = logging.getLogger("scmrl.app")

VERSION = version("scmrl")

#: Name of the threads that load checkpoints.
LOADING = loading.LOADING

DESCRIPTION = """
A clip in; class probabilities, each stream's exact contribution and attention maps out, from a
spiking network that sees and hears (S-CMRL).

With a clip of the clone:

```bash
curl -F clip=@tests/data/clips/digit-7.webm http://127.0.0.1:8000/v1/classify
curl -F clip=@tests/data/clips/digit-7.webm -F top_k=3 -F steps=8 -F attention=none \\
     http://127.0.0.1:8000/v1/classify
```

```python
import httpx

with open("tests/data/clips/digit-7.webm", "rb") as clip:
    answer = httpx.post("http://127.0.0.1:8000/v1/classify", files={"clip": clip}).json()
print(answer["prediction"])
```

Every error is a problem document (`application/problem+json`) whose `id` is in the log.
"""


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
    - `on_failure`: called when it never will; the caller must then end the process.
    """
    settings = settings or Settings()
    start_keys = start_keys or key_file.read(settings)
    keyring = Keyring(settings, start_keys, hangups)
    limits = DecodeLimits(
        settings.decode_timeout_s, settings.decode_memory_mib * MIB, settings.sandbox
    )
    failed: list[StartupError] = []

    def fail(error: StartupError) -> None:
        """Report an error after which only a restart of the process helps."""
        failed.append(error)
        if len(failed) > 1:
            return  # every batch on a lost device fails
        log.critical("%s", error)
        on_failure(error)

    def lose(error: Exception) -> None:
        fail(StartupError(f"the device is lost: {error}"))

    models = ModelServer(settings, lose)
    workers = settings.decode_workers or cores.available()
    decoders = DecoderPool(workers, limits, lambda error: fail(StartupError(str(error))))
    connections = Connections(connections_within_file_limit(settings.max_connections, workers))
    request_metrics = Metrics(StateMetrics(models, decoders, connections), VERSION)
    state = State(settings, models, decoders, connections, request_metrics)
    tracing = traces.from_environment(VERSION)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.decoders.start()
        for watch in (models.watch_workers, models.watch_files, decoders.watch, keyring.watch):
            threading.Thread(target=watch, name="scmrl-watch", daemon=True).start()
        loading = asyncio.create_task(_load(state, on_ready, fail))
        try:
            yield
        finally:
            keyring.stop()
            await asyncio.to_thread(models.stop)  # it waits for running batches
            loading.cancel()  # its thread runs on until it sees that the service stops
            with suppress(asyncio.CancelledError):
                await loading
            state.decoders.stop()
            if tracing is not None:
                await asyncio.to_thread(tracing.stop)

    app = FastAPI(
        title="scmrl",
        summary="Spiking audio-visual classification",
        description=DESCRIPTION,
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # Relative to the description's own address: it holds behind a proxy that strips a prefix.
        servers=[{"url": "."}],
        root_path_in_servers=False,
    )
    app.state.scmrl = state
    trace = tracing.record if tracing is not None else None
    _add_middleware(app, settings, keyring, state.metrics.measure, trace)
    app.state.refuse = SecurityHeaders(AccessLog(refuse, state.metrics.measure, trace))
    error_responses.install(app)
    for router in (
        classify.router,
        models_route.router,
        admin.router,
        health.router,
        metrics.router,
    ):
        app.include_router(router)
    _add_docs(app, settings, start_keys)
    trailing_slashes.install(app)
    return app


def _add_middleware(
    app: FastAPI,
    settings: Settings,
    keyring: Keyring,
    measure: Callable[[CompletedRequest], None],
    trace: Callable[[CompletedRequest], str | None] | None,
) -> None:
    """Add middleware from the innermost to the outermost, which sees a request first.

    CORS is outside the key check: a browser's preflight request carries no key.
    """
    app.add_middleware(HeadRequests)
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        max_total_bytes=settings.max_total_upload_bytes,
        max_seconds=settings.upload_timeout_s,
        min_rate=settings.upload_min_rate,
    )
    app.add_middleware(KeyCheck, keyring=keyring)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("Authorization", "X-Request-ID"),
            expose_headers=("Retry-After", "X-Request-ID"),
        )
    app.add_middleware(AccessLog, measure=measure, trace=trace)
    app.add_middleware(SecurityHeaders)


async def _load(
    state: State, on_ready: Callable[[], None], fail: Callable[[StartupError], None]
) -> None:
    """Load in a thread: uvicorn does not listen before the lifespan's start-up returns."""
    try:
        with gc.disabled():
            can_answer = await in_thread(LOADING, lambda: _load_default(state))
    except StartupError as exc:
        fail(exc)
        return
    except Problem:
        return  # the service is being stopped
    if can_answer:
        on_ready()
    await in_thread(LOADING, state.models.startup.load_others)
    gc.freeze()


def _load_default(state: State) -> bool:
    """Load the default checkpoint and test the decoders; return whether clips can be answered.

    Raises StartupError.
    """
    state.models.startup.load_default()
    card = state.registry.get(state.registry.default_name).card
    try:
        return state.decoders.run_self_test(DecodeRequest.from_card(card, card.steps))
    except DecodingUnavailable as exc:
        raise StartupError(str(exc)) from exc


def _add_docs(app: FastAPI, settings: Settings, start_keys: key_file.Keys) -> None:
    """Serve Swagger UI from our own files, since there may be no access to a CDN."""
    static = StaticFiles(directory=str(files("fastapi_offline") / "static"))
    app.mount("/docs/static", static, name="docs-static")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="openapi.json",
            title="scmrl",
            swagger_js_url="docs/static/swagger-ui-bundle.js",
            swagger_css_url="docs/static/swagger-ui.css",
            swagger_favicon_url="docs/static/favicon.png",
            swagger_ui_parameters={"tryItOutEnabled": True, "defaultModelsExpandDepth": 0},
        )
        page.headers["Content-Security-Policy"] = page_policy(bytes(page.body).decode())
        return page

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")

    describe = app.openapi

    def openapi() -> dict[str, Any]:
        schema = describe()
        body = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"].setdefault(SCHEMA_NAME, body)
        _remove_validation_errors(schema)
        classify.describe(schema, settings)
        api_keys.describe(schema, start_keys)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _remove_validation_errors(schema: dict[str, Any]) -> None:
    """Remove FastAPI's own 422 of paths with parameters, which is never sent."""
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    for path in schema["paths"].values():
        for operation in path.values():
            refusal = operation["responses"].get("422", {})
            if "application/json" in refusal.get("content", {}):
                del operation["responses"]["422"]
