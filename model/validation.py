"""Messages about data that pydantic refuses, and numbers of JSON that are no booleans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

#: What is wrong by the type of an error, with the members of its context.
_MESSAGES: Mapping[str, str] = {
    "missing": "is missing",
    "extra_forbidden": "there is no such member",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "union_tag_invalid": "{discriminator} must be one of {expected_tags}",
    "union_tag_not_found": "{discriminator} is missing",
    "too_short": "must have at least {min_length}",
    "too_long": "must have at most {max_length}",
    "string_too_short": "must have a length of at least {min_length}",
    "string_too_long": "must have a length of at most {max_length}",
    "json_invalid": "is not JSON: {error}",
}
#: What is accepted by the begin of the type of an error, as `int_parsing` and `int_type`.
_EXPECTED: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "list": "an array",
    "tuple": "an array",
    "dict": "an object",
    "model": "an object",
}


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("no_number", "must be a number, not true or false")
    return value


#: Numbers of JSON. Pydantic alone would take true for 1.
WholeNumber = Annotated[int, BeforeValidator(_refuse_boolean)]
RealNumber = Annotated[float, BeforeValidator(_refuse_boolean)]


def describe(error: ErrorDetails) -> str:
    """Return what is wrong with a value, without its location: `must be at most 64`."""
    kind = error["type"]
    context: dict[str, Any] = error.get("ctx", {})
    if kind in _MESSAGES:
        return _MESSAGES[kind].format(**context)
    begin, _, end = kind.partition("_")
    if begin in _EXPECTED and end in ("type", "parsing", "from_float", "attributes_type"):
        return f"must be {_EXPECTED[begin]}"
    return error["msg"].removeprefix("Value error, ")


def describe_located(error: ErrorDetails) -> str:
    """Return where a value is, and what is wrong with it: `inputs.0.sample_rate: is missing`."""
    location = ".".join(map(str, error["loc"]))
    return f"{location}: {describe(error)}" if location else describe(error)
