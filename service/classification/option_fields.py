"""The options as texts: their names, descriptions and bounds, and how they are parsed.

Forms, JSON, OpenAPI and the parameters of other protocols are all read by this table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.classification.options import CONTRIBUTIONS, MAP_DETAILS, Options
from service.errors import Error, Problem
from service.settings import Settings

#: Largest out-of-distribution score that can be asked for.
_MAX_SCORE = 1_000_000


@dataclass(frozen=True)
class Value:
    """One text field, which becomes the option of the same name.

    `schema` is its OpenAPI schema; `parse` raises ValueError saying what the text must be.
    """

    description: str
    schema: Callable[[Settings], dict[str, Any]]
    parse: Callable[[str, Settings], Any]


def _parse_count(text: str, maximum: int | None) -> int:
    """Parse a whole number from 1 to `maximum`."""
    is_number = text.isascii() and text.isdecimal() and len(text) < 10
    number = int(text) if is_number else 0
    if not 1 <= number <= (maximum or number):
        raise ValueError(f"a whole number, {f'1 to {maximum}' if maximum else '1 or more'}")
    return number


def _parse_number(text: str, maximum: int) -> float:
    """Parse a number from 0 to `maximum`."""
    try:
        number = float(text) if text.isascii() and len(text) < 30 else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number <= maximum:
        raise ValueError(f"a number, 0 to {maximum}")
    return number


def _parse_choice(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ValueError(f"one of {', '.join(choices)}")
    return text


def _parse_flag(text: str) -> bool:
    """Parse it in any case: Python's `requests` and generated clients send True and False."""
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.lower() == "true"


#: The text fields by name; each is a field of Options, whose defaults hold.
VALUES: Mapping[str, Value] = {
    "steps": Value(
        "Time steps T of the network; default: the checkpoint's own.",
        lambda settings: {"type": "integer", "minimum": 1, "maximum": settings.max_steps},
        lambda text, settings: _parse_count(text, settings.max_steps),
    ),
    "top_k": Value(
        "Number of probabilities, most probable first; default: all.",
        lambda _: {"type": "integer", "minimum": 1},
        lambda text, _: _parse_count(text, None),
    ),
    "attention": Value(
        "`none`; `grid`: the maps as numbers (default); `overlay`: as PNGs as well.",
        lambda _: {
            "type": "string",
            "enum": list(MAP_DETAILS),
            "default": Options.attention,
        },
        lambda text, _: _parse_choice(text, MAP_DETAILS),
    ),
    "class_activation": Value(
        "Maps of what each part of a stream adds to the logit of the most probable label: `none` "
        "(default); `grid`: as numbers, which sum to the stream's contribution; `overlay`: as PNGs "
        "as well.",
        lambda _: {
            "type": "string",
            "enum": list(MAP_DETAILS),
            "default": Options.class_activation,
        },
        lambda text, _: _parse_choice(text, MAP_DETAILS),
    ),
    "contributions": Value(
        "`tower` (default): the term of each stream's tower. `leave_one_out`: also the change of "
        "each logit when a stream is left out, as `leave_one_out` in the answer; the network then "
        "runs once more for each stream. For checkpoints that support missing streams.",
        lambda _: {"type": "string", "enum": list(CONTRIBUTIONS), "default": Options.contributions},
        lambda text, _: _parse_choice(text, CONTRIBUTIONS),
    ),
    "abstain_below": Value(
        "Abstain where the highest probability is lower: `abstained` is true, and `prediction` has "
        "no label. 0: never. Default: the checkpoint's, from its card.",
        lambda _: {"type": "number", "minimum": 0, "maximum": 1},
        lambda text, _: _parse_number(text, 1),
    ),
    "abstain_beyond": Value(
        "Abstain where `out_of_domain` is higher; 97 % of known clips score below 1. "
        "Default: the checkpoint's, from its card. A checkpoint without a score never abstains.",
        lambda _: {"type": "number", "minimum": 0, "maximum": _MAX_SCORE},
        lambda text, _: _parse_number(text, _MAX_SCORE),
    ),
    "diagnostics": Value(
        "`true`: firing rates, operations and an estimate of the energy by layer, as `diagnostics` "
        "in the answer; the network as published then runs once more. Default: `false`.",
        lambda _: {"type": "boolean", "default": Options.diagnostics},
        lambda text, _: _parse_flag(text),
    ),
    "steps_trace": Value(
        "`true`: the probabilities after each time step, as `steps_trace` in the answer: those of "
        "the first steps alone, for which the network runs once each. Default: `false`.",
        lambda _: {"type": "boolean", "default": Options.steps_trace},
        lambda text, _: _parse_flag(text),
    ),
    "exit_margin": Value(
        "Stop early: run 1, 2, 4, … time steps, and answer as soon as the highest probability "
        "exceeds the next by this much, 0 to 1. Default: run all steps.",
        lambda _: {"type": "number", "minimum": 0, "maximum": 1},
        lambda text, _: _parse_number(text, 1),
    ),
    "degrade": Value(
        "`true` (default): fewer time steps may be run under load where the operator allows it; "
        "the answer then has `degraded`. `false`: never. T is never lowered if `steps` is sent.",
        lambda _: {"type": "boolean", "default": Options.degrade},
        lambda text, _: _parse_flag(text),
    ),
}


def parse_options(
    texts: Mapping[str, Sequence[str]], settings: Settings, model: str | None = None
) -> Options:
    """Return the options with these texts by name, and `model`. Other names are left alone.

    Raises Problem INVALID_FIELD.
    """
    values = {name: _parse_value(name, texts[name], settings) for name in VALUES if name in texts}
    return Options(model=model, **values)


def _parse_value(name: str, texts: Sequence[str], settings: Settings) -> Any:
    """Raises Problem INVALID_FIELD."""
    if len(texts) > 1:
        detail = f"`{name}` was sent {len(texts)} times; send it once."
        raise Problem(Error.INVALID_FIELD, detail, field=name)
    try:
        return VALUES[name].parse(texts[0].strip(), settings)
    except ValueError as exc:
        detail = f"`{name}` is {texts[0][:20]!r}; it must be {exc}."
        raise Problem(Error.INVALID_FIELD, detail, field=name) from None
