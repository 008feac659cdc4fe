"""An error that quotes a limit says which setting it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.media.types import Limits, TooLarge
from service.decoding.files import _problems_naming
from service.errors import Error, Problem
from service.settings import Settings

MEDIA = Path(__file__).parents[3] / "model" / "media"
#: The fields of Limits that an operator can set.
SETTABLE = set(Limits.__dataclass_fields__) & set(Settings.model_fields)


def too_large() -> Iterator[tuple[str, ast.Call, set[str]]]:
    """Yield where TooLarge is raised, the call, and the limits that it quotes, or the assignment
    of its detail just before."""
    for path in sorted(MEDIA.rglob("*.py")):
        for block in ast.walk(ast.parse(path.read_text())):
            body = getattr(block, "body", None)
            for index, raised in enumerate(body if isinstance(body, list) else []):
                call = raised.exc if isinstance(raised, ast.Raise) else None
                if isinstance(call, ast.Call) and ast.unparse(call.func) == TooLarge.__name__:
                    before = [part for part in body[:index][-1:] if isinstance(part, ast.Assign)]
                    words = [node for part in [call, *before] for node in ast.walk(part)]
                    names = {node.attr for node in words if isinstance(node, ast.Attribute)}
                    yield f"{path.name}:{call.lineno}", call, names & SETTABLE


def test_every_quoted_limit_that_can_be_set_is_named() -> None:
    calls = list(too_large())
    assert len(calls) > 30
    named = 0
    for where, call, quoted in calls:
        limits = [word.value for word in call.keywords if word.arg == "limit"]
        names = {limit.value for limit in limits if isinstance(limit, ast.Constant)}
        assert names <= SETTABLE, where
        assert not quoted or names & quoted, f"{where} quotes {quoted}, and names {names}"
        named += len(names)
    assert named > 15


def test_a_limit_is_named_as_its_variable() -> None:
    error = TooLarge("it is long", limit="max_duration_s").within("picture 2 of 3", 1)
    with pytest.raises(Problem) as caught, _problems_naming("frames"):
        raise error
    problem = caught.value
    assert (problem.error, problem.field, problem.file) == (Error.TOO_LARGE, "frames", 1)
    assert problem.detail == "`frames`: picture 2 of 3: it is long (SCMRL_MAX_DURATION_S)."
