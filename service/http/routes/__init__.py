"""The routes, one resource per module; each module's router is listed in `ROUTERS`.

To add a route, HTTP or WebSocket, write a module beside these with a `router`, and add it here. A
route that classifies awaits `ServedClassifier.classify`
(service/classification/served_classifier.py).
"""

from __future__ import annotations

from service.http.routes import (
    admin,
    classify,
    classify_batch,
    health,
    metrics,
    models,
    open_inference,
    stream,
)

#: The routers that the application includes, in the order of the OpenAPI description.
ROUTERS = (
    classify.router, classify_batch.router, stream.router, models.router, admin.router,
    health.router, open_inference.router, metrics.router,
)  # fmt: skip
