"""Several clips of one call: a few at a time, each with an answer or a problem of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from service.classification.schemas import Classification
from service.errors import Error, Problem

log = logging.getLogger("scmrl.classification")

_Clip = TypeVar("_Clip")


async def classify_concurrently(
    clips: Sequence[_Clip],
    classify: Callable[[_Clip], Awaitable[Classification]],
    *,
    in_flight: int,
    deadline_s: float,
) -> list[Classification | Problem]:
    """Return what `classify` returns or raises for each clip, in their order.

    At most `in_flight` are begun and not answered; each has `deadline_s` seconds from then on. When
    cancelled, all that are begun are cancelled.
    """
    results: dict[int, Classification | Problem] = {}
    waiting = iter(enumerate(clips))

    async def work() -> None:
        for number, clip in waiting:
            results[number] = await _answer(classify(clip), deadline_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(in_flight, len(clips))):
            group.create_task(work())
    return [results[number] for number in range(len(clips))]


async def _answer(answer: Awaitable[Classification], deadline_s: float) -> Classification | Problem:
    try:
        async with asyncio.timeout(deadline_s):
            return await answer
    except TimeoutError:
        return deadline_passed(deadline_s)
    except Problem as problem:
        return problem
    except Exception:
        log.exception("unexpected error of a clip")
        return Problem(Error.INTERNAL, "This is a bug; the log has the details under this id.")


def deadline_passed(deadline_s: float) -> Problem:
    """Return the problem of a request without an answer in time."""
    detail = f"No answer within {deadline_s:g} s (SCMRL_REQUEST_DEADLINE_S)."
    return Problem(Error.DEADLINE, detail)
