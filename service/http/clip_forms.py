"""The body of a request with several clips: a form whose fields have the number of their clip, or a
JSON array of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.classification.option_fields import parse_options
from service.classification.options import Options
from service.classification.upload_fields import InputFiles, Kinds
from service.errors import Error, Problem
from service.http import form, json_body
from service.http.json_body import check_number, naming_clip
from service.http.multipart_body import Form, FormFields
from service.settings import Settings


def split_clips(form: Form, fields: FormFields, max_clips: int) -> list[Form]:
    """Return the form of each clip, in their order.

    The files of a clip have its number, from 0: `video.0`, `audio.0`. A single field without a
    number is the only file of each clip: `clip` once for each. Values without a number are those of
    every clip that has none of its own. Raises Problem INVALID_FIELD or TOO_LARGE.
    """
    numbered = [fields.split(name) for name in form.files]
    names = [name for name, number in numbered if number is None]
    numbers = [number for _, number in numbered if number is not None]
    if names:
        clips = _one_file_each(form, names, fields, has_numbers=bool(numbers))
        check_number(len(clips), max_clips)
    else:
        check_number(max(numbers, default=-1) + 1, max_clips)
        clips = [Form() for _ in range(max(numbers) + 1)]
        for name, files in form.files.items():
            field, number = fields.split(name)
            clips[number or 0].files[field] = files
    _add_values(clips, form, fields)
    return clips


def _one_file_each(
    form: Form, names: Sequence[str], fields: FormFields, *, has_numbers: bool
) -> list[Form]:
    """Return a form for each file of the only field. Raises Problem INVALID_FIELD."""
    name = names[-1]
    if has_numbers or len(names) > 1 or name in fields.repeated:
        detail = (
            f"`{name}` has no number of a clip: send `{name}.0`, `{name}.1`, …; without numbers, "
            "send a single field with one file for each clip."
        )
        raise Problem(Error.INVALID_FIELD, detail, field=name)
    return [Form(files={name: [file]}) for file in form.files[name]]


def _add_values(clips: Sequence[Form], form: Form, fields: FormFields) -> None:
    """Add to each clip the values of all and then its own. Raises Problem INVALID_FIELD."""
    for name, values in form.values.items():
        if fields.split(name)[1] is None:
            for clip in clips:
                clip.values[name] = values
    for name, values in form.values.items():
        field, number = fields.split(name)
        if number is None:
            continue
        if number >= len(clips):
            detail = f"`{name}`: there is no clip {number}; the last is clip {len(clips) - 1}."
            raise Problem(Error.INVALID_FIELD, detail, field=name)
        clips[number].values[field] = values


def parse_clips(
    clips: Sequence[Form], settings: Settings, model: str
) -> list[tuple[InputFiles, Options]]:
    """Return files and options of each clip; the files are not checked. Raises Problem
    INVALID_FIELD."""
    parsed = []
    for number, clip in enumerate(clips):
        with naming_clip(number):
            parsed.append((InputFiles(**clip.files), parse_options(clip.values, settings, model)))
    return parsed


def request_body(settings: Settings, checkpoints: Mapping[str, Kinds]) -> dict[str, Any]:
    """Return the OpenAPI request body of several clips."""
    return {
        "description": "Several clips. In a form: `clip` (or another field of one file) once for "
        "each, or each field with the number of its clip behind it, from 0: `video.0`, `audio.0`, "
        "`video.1`, …. Options are for all clips, or with a number for one: `steps.1`. In JSON: an "
        "array of the objects that are sent for one clip.",
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _form_schema(settings, checkpoints)},
            json_body.MEDIA_TYPE: {
                "schema": {
                    "type": "array",
                    "items": form.body_schema(form.BASE64, settings, checkpoints),
                    "minItems": 1,
                    "maxItems": settings.call_clips,
                }
            },
        },
    }


def _form_schema(settings: Settings, checkpoints: Mapping[str, Kinds]) -> dict[str, Any]:
    fields = form.body_schema(form.BINARY, settings, checkpoints)["properties"]
    # A field of several files says nothing of their clips without a number.
    plain = {name: field for name, field in fields.items() if field["type"] != "array"}
    return {
        "type": "object",
        "properties": {name: _for_every_clip(field) for name, field in plain.items()},
        "patternProperties": {f"^{name}\\.[0-9]{{1,9}}$": fields[name] for name in fields},
        "additionalProperties": False,
    }


def _for_every_clip(field: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field without a number: a file once for each clip, or a value."""
    if field.get("format") != "binary":
        return field
    several = {"type": "array", "items": form.BINARY, "description": field["description"]}
    return form.with_example(several)
