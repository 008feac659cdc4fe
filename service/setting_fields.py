"""Fields of Settings: each has a topic, a description and, for a number, a unit and bounds."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

#: Upper bounds of sizes in bytes and of times in seconds.
MAX_BYTES, DAY_S = 1 << 40, 86_400


class Topic(StrEnum):
    """Sections of docs/settings.md, in their order."""

    CHECKPOINTS = "Checkpoints and devices"
    NETWORK = "Address and connections"
    KEYS = "Keys and origins"
    UPLOADS = "Uploads"
    MEDIA = "Media limits"
    DECODING = "Decoding processes"
    STREAMS = "Live streams"
    INFERENCE = "Batches, queue and overload"
    TIMES = "Start, stop and supervision"
    LOGS = "Logs"


def setting(
    topic: Topic, default: Any, description: str, unit: str = "", *, zero: str = "", **bounds: Any
) -> Any:
    """Return a field with its topic and unit, from which docs/settings.md is generated.

    `zero` says what 0 means where it is not a number of units, as "automatic". A number needs an
    upper and a lower bound, so that infinity and sizes that no machine has are rejected at the
    start.
    """
    if type(default) is float:
        bounds["allow_inf_nan"] = False
    extra: dict[str, Any] = {"topic": topic, "unit": unit, "zero": zero}
    return Field(default, description=description, json_schema_extra=extra, **bounds)


def seconds(topic: Topic, default: float, description: str, ge: float | None = None) -> Any:
    """Return the field of a time of at most a day: more than zero, or at least `ge` seconds."""
    lower = {"gt": 0} if ge is None else {"ge": ge}
    return setting(topic, default, description, "s", **lower, le=DAY_S)


def size(topic: Topic, default: int, description: str) -> Any:
    """Return the field of a size in bytes."""
    return setting(topic, default, description, "bytes", ge=1024, le=MAX_BYTES)
