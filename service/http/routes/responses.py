"""The error answers of a route, for its OpenAPI description."""

from __future__ import annotations

from typing import Any

from service.errors import Error
from service.http.error_responses import MEDIA_TYPE

#: Where `service.app` puts the schema of a problem document.
SCHEMA_NAME = "ErrorBody"


def problems(*errors: Error) -> dict[int | str, dict[str, Any]]:
    """One entry a status, described by the titles of the errors that have it."""
    titles: dict[int, list[str]] = {}
    for error in errors:
        titles.setdefault(error.status, []).append(error.title)
    schema = {"$ref": f"#/components/schemas/{SCHEMA_NAME}"}
    return {
        status: {"description": "; ".join(found), "content": {MEDIA_TYPE: {"schema": schema}}}
        for status, found in titles.items()
    }
