"""Several clips of one call: how many at a time, their order, deadlines and cancellation."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from service.classification.concurrent_clips import classify_concurrently
from service.classification.schemas import Classification
from service.errors import Error, Problem


class Clips:
    """Classifies numbers; each waits until a test releases it."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.go_on = asyncio.Semaphore(0)

    async def classify(self, number: int) -> Classification:
        self.begun.append(number)
        try:
            await self.go_on.acquire()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        if number == 1:
            raise Problem(Error.UNUSABLE, "of a test")
        if number == 2:
            raise ValueError("a bug")
        return cast(Classification, number)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_few_are_begun_at_a_time_and_results_keep_the_order() -> None:
    async def run() -> None:
        clips = Clips()
        task = asyncio.create_task(
            classify_concurrently(range(5), clips.classify, in_flight=2, deadline_s=60)
        )
        await settle()
        assert clips.begun == [0, 1]
        clips.go_on.release()
        await settle()
        assert clips.begun == [0, 1, 2], "a clip is begun where one is answered, and no sooner"
        for _ in range(4):
            clips.go_on.release()
        results = await task
        assert [results[number] for number in (0, 3, 4)] == [0, 3, 4]
        errors = [r.error for r in results if isinstance(r, Problem)]
        assert errors == [Error.UNUSABLE, Error.INTERNAL]

    asyncio.run(run())


def test_cancelled_it_cancels_what_is_begun_and_begins_no_more() -> None:
    async def run() -> None:
        clips = Clips()
        task = asyncio.create_task(
            classify_concurrently(range(5), clips.classify, in_flight=2, deadline_s=60)
        )
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert clips.begun == [0, 1]
        assert sorted(clips.cancelled) == [0, 1]

    asyncio.run(run())


def test_each_clip_has_a_deadline_of_its_own() -> None:
    async def run() -> None:
        clips = Clips()
        results = await classify_concurrently(
            range(3), clips.classify, in_flight=2, deadline_s=0.01
        )
        assert [r.error for r in results if isinstance(r, Problem)] == [Error.DEADLINE] * 3
        assert clips.begun == [0, 1, 2]

    asyncio.run(run())
