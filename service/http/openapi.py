"""The OpenAPI description and the pages that show it."""

from __future__ import annotations

from copy import deepcopy
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from service.http import problem_document
from service.http.middleware import api_keys
from service.http.middleware.security_headers import page_policy
from service.http.paths import is_open_inference
from service.http.routes import classify, classify_batch, open_inference
from service.http.state import State
from service.keys.key_file import Keys
from service.settings import Settings

DESCRIPTION = f"""
Classify clips by sound and picture with a spiking network (S-CMRL): class probabilities, the terms
of each stream, attention maps, and on request what each stream changes and maps of what speaks for
the label.

With a clip of the repository:

```bash
curl -F clip=@tests/data/clips/digit-7.webm http://127.0.0.1:8000/v1/classify
curl -F clip=@tests/data/clips/digit-7.webm -F top_k=3 -F steps=8 -F attention=none \\
     http://127.0.0.1:8000/v1/classify
```

```python
import httpx

with open("tests/data/clips/digit-7.webm", "rb") as clip:
    answer = httpx.post("http://127.0.0.1:8000/v1/classify", files={{"clip": clip}}).json()
print(answer["prediction"])
```

{problem_document.SUMMARY}

The Open Inference Protocol v2, for clients of KServe and Triton, is under `/v2`; a checkpoint's
inputs and outputs are at `GET /v2/models/NAME`.
"""


def operation_id(route: APIRoute) -> str:
    """Return the id of an operation, by which generators of clients name their functions."""
    return f"v2_{route.name}" if is_open_inference(route.path) else route.name


def install(app: FastAPI, settings: Settings, start_keys: Keys) -> None:
    """Add `/docs` and the description at `/openapi.json`."""
    _add_pages(app)
    _add_description(app, settings, start_keys)


def _add_pages(app: FastAPI) -> None:
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


def _add_description(app: FastAPI, settings: Settings, start_keys: Keys) -> None:
    """Complete FastAPI's description with errors, limits and keys."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        schema = deepcopy(describe())  # FastAPI keeps its own
        problem_document.add_schema(schema)
        _remove_validation_errors(schema)
        for routes in (classify, classify_batch):
            routes.describe(schema, settings, _streams(app))
        open_inference.describe(schema)
        api_keys.describe(schema, start_keys)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _streams(app: FastAPI) -> dict[str, dict[str, str]]:
    """Return the kinds of the streams of each checkpoint that is served, by its name."""
    state: State | None = getattr(app.state, "scmrl", None)
    ready = {} if state is None else state.registry.ready
    return {name: model.card.kinds for name, model in ready.items()}


def _remove_validation_errors(description: dict[str, Any]) -> None:
    """Remove FastAPI's own 422 of paths with parameters, which is never sent."""
    for name in ("HTTPValidationError", "ValidationError"):
        description["components"]["schemas"].pop(name, None)
    for path in description["paths"].values():
        for operation in path.values():
            refusal = operation["responses"].get("422", {})
            schema = refusal.get("content", {}).get("application/json", {}).get("schema", {})
            if schema.get("$ref", "").endswith("/HTTPValidationError"):
                del operation["responses"]["422"]
