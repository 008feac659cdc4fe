"""The classify form: its fields, their OpenAPI description, and how they are parsed.

The file fields are those of the checkpoint (`classification.upload_fields`), and the value fields
those of `classification.option_fields`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.classification import upload_fields
from service.classification.option_fields import VALUES, parse_options
from service.classification.options import Options
from service.classification.upload_fields import InputFiles, Kinds
from service.http import json_body
from service.http.multipart_body import Form, FormFields
from service.settings import Settings

#: The schema of a file in a form, and in JSON.
BINARY = {"type": "string", "format": "binary"}
BASE64 = {"type": "string", "contentEncoding": "base64"}


def form_fields(settings: Settings, kinds: Kinds, model: str) -> FormFields:
    """Return the fields that the form of a checkpoint may have, with the maximum bytes of each
    file field. `kinds`: of its streams."""
    rows = upload_fields.checkpoint_fields(kinds)
    schemas = {name: value.schema(settings) for name, value in VALUES.items()}
    return FormFields(
        files={row.name: int(getattr(settings, row.max_bytes)) for row in rows},
        values={name: str(schema["type"]) for name, schema in schemas.items()},
        choices={name: schema["enum"] for name, schema in schemas.items() if "enum" in schema},
        repeated=frozenset(row.name for row in rows if row.max_files),
        note=f"The streams of the checkpoint {model}: {', '.join(kinds)}.",
    )


def parse_form(
    form: Form, settings: Settings, kinds: Kinds, model: str | None = None
) -> tuple[InputFiles, Options]:
    """Return the files and the options of a form, with `model` among the options.

    `kinds`: of the checkpoint's streams. Raises Problem INVALID_FIELD for a value, and as
    `upload_fields.check_files` does.
    """
    options = parse_options(form.values, settings, model)
    files = InputFiles(**form.files)
    upload_fields.check_files(files, settings, kinds)
    return files, options


def request_body(settings: Settings, checkpoints: Mapping[str, Kinds]) -> dict[str, Any]:
    """Return the form as an OpenAPI request body: it is parsed while it arrives, not by FastAPI.

    It has the fields of these checkpoints' streams; without one, those of every checkpoint.
    """
    form = body_schema(BINARY, settings, checkpoints)
    base64 = body_schema(BASE64, settings, checkpoints)
    usages = [f"{name}: {upload_fields.usage(kinds)}." for name, kinds in checkpoints.items()]
    return {
        "description": " ".join(
            [
                f"Send {upload_fields.general_usage()}, or the file of each stream in a field of "
                "its name.",
                *usages,
                "In JSON, files are base64.",
            ]
        ),
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form},
            json_body.MEDIA_TYPE: {"schema": base64},
        },
    }


def body_schema(
    file: dict[str, Any], settings: Settings, checkpoints: Mapping[str, Kinds]
) -> dict[str, Any]:
    """Return the schema of a body whose files are as `file` says."""
    properties: dict[str, Any] = {}
    own = (row for kinds in checkpoints.values() for row in upload_fields.checkpoint_fields(kinds))
    for row in (*upload_fields.FIELDS, *own):
        if row.name not in properties:
            schema = {"type": "array", "items": file} if row.max_files else file
            properties[row.name] = {**schema, "description": row.description}
    for name, value in VALUES.items():
        properties[name] = {**value.schema(settings), "description": value.description}
    if file == BINARY:
        properties = {name: with_example(schema) for name, schema in properties.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def with_example(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field of a form with an example that is as good as no field.

    /docs fills in examples and, without one, a sample such as steps=1 or a text for a file.
    """
    if "default" in schema:
        return schema
    return {**schema, "example": [] if schema["type"] == "array" else ""}
