"""Messages about settings: bounds, invalid values, and unknown or renamed variables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from service.renamed_settings import RENAMED, renamed_warning
from service.setting_names import PREFIX, variable
from service.settings import Settings

#: Variables with the same prefix that are not settings, and what reads them.
OTHER_VARIABLES = {
    "SCMRL_CPUS": "docker/compose.yaml",
    "SCMRL_IMAGE_CACHE": "the trials of the image",
}
#: Most characters of an invalid value that a message has.
_MAX_SHOWN = 40


def variable_warnings(environment: Iterable[str]) -> list[str]:
    """Return warnings for variables that look like settings: renamed ones, and unknown ones."""
    variables = [variable(name) for name in Settings.model_fields]
    renamed = {variable(old): variable(new) for old, new in RENAMED.items()}
    warnings = []
    for name in sorted(environment):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in (*variables, *OTHER_VARIABLES):
            continue
        if upper in renamed:
            warnings.append(renamed_warning(name, renamed[upper]))
            continue
        nearest = difflib.get_close_matches(upper, variables, n=1, cutoff=0.8)
        hint = f"did you mean {nearest[0]}?" if nearest else "`scmrl settings` lists all settings"
        warnings.append(f"{name} is not a setting, and has no effect; {hint}")
    return warnings


def describe_invalid_variables(error: ValidationError) -> str:
    """Return what is wrong with the variables that Settings refused: a line for each."""
    return "\n".join(
        f"{variable(str(item['loc'][0]))}: {describe_error(item)}" for item in error.errors()
    )


def describe_error(error: ErrorDetails) -> str:
    """Return what is wrong with the value of a setting, and what it must be.

    `error` is one of those of a ValidationError of Settings.
    """
    name = str(error["loc"][0])
    field = Settings.model_fields.get(name)
    expected = describe_expected(field) if field is not None else ""
    if error["type"] == "value_error" or not expected:
        return error["msg"].removeprefix("Value error, ")
    return f"{str(error['input'])[:_MAX_SHOWN]!r} is not valid; it must be {expected}"


def describe_expected(field: FieldInfo) -> str:
    """Return what a value must be, as in `a whole number, 0 to 65535`; nothing for texts."""
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(get_args(field.annotation))}"
    kinds: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number"}
    if field.annotation not in kinds:
        return ""
    return ", ".join(filter(None, (kinds[field.annotation], describe_bounds(field))))


def describe_bounds(field: FieldInfo) -> str:
    """Return the range of a number with its unit, as in `1 to 1024 requests`; else nothing.

    Every number has an inclusive (ge) or exclusive (gt) lower bound, and an inclusive upper one.
    """
    limits = {
        key: getattr(mark, key)
        for mark in field.metadata
        for key in ("gt", "ge", "le")
        if getattr(mark, key, None) is not None
    }
    if "le" not in limits:
        return ""
    lowest = f"{limits['ge']}" if "ge" in limits else f"more than {limits['gt']}"
    return f"{lowest} to {limits['le']} {unit(field)}".strip()


def describe_values(field: FieldInfo) -> str:
    """Return the values that a setting can have: its choices, or the range of a number."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(get_args(field.annotation))
    return describe_bounds(field)


def unit(field: FieldInfo) -> str:
    """Return the unit of a setting; empty where it has none."""
    return _extra(field, "unit")


def zero(field: FieldInfo) -> str:
    """Return what 0 means where it is not a number of units, as "automatic"; else empty."""
    return _extra(field, "zero")


def _extra(field: FieldInfo, key: str) -> str:
    extra = field.json_schema_extra
    return str(extra.get(key, "")) if isinstance(extra, dict) else ""
