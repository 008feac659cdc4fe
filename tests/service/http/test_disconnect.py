"""Work is cancelled at the deadline, or when the client disconnects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from service.errors import Error, Problem
from service.http.disconnect import run_until_disconnect


class Work:
    """Takes until `done` is set; notes whether it was cancelled."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.begun = asyncio.Event()
        self.cancelled = False

    async def run(self) -> str:
        self.begun.set()
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "an answer"


def request(gone: asyncio.Event) -> Request:
    """A request whose client goes away when the event is set."""

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http", "headers": []}, receive)


def test_work_that_is_done_in_time_is_answered() -> None:
    async def scenario() -> str:
        work = Work()
        work.done.set()
        return await run_until_disconnect(request(asyncio.Event()), work.run(), 30)

    assert asyncio.run(scenario()) == "an answer"


def test_work_is_cancelled_at_the_deadline() -> None:
    async def scenario() -> None:
        work = Work()
        with pytest.raises(Problem, match=r"within 0\.01 s") as raised:
            await asyncio.wait_for(
                run_until_disconnect(request(asyncio.Event()), work.run(), 0.01), 30
            )
        assert raised.value.error is Error.DEADLINE
        assert work.cancelled

    asyncio.run(scenario())


def test_work_is_cancelled_when_its_client_goes_away() -> None:
    async def scenario() -> None:
        work, gone = Work(), asyncio.Event()
        waiting = asyncio.create_task(run_until_disconnect(request(gone), work.run(), 30))
        await work.begun.wait()
        assert not waiting.done()
        gone.set()
        with pytest.raises(ClientDisconnect):
            await asyncio.wait_for(waiting, 30)
        assert work.cancelled

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [LookupError, TimeoutError])
def test_exceptions_of_the_work_are_raised(error: type[Exception]) -> None:
    async def fails() -> None:
        raise error("of a test")

    with pytest.raises(error, match="of a test"):
        asyncio.run(run_until_disconnect(request(asyncio.Event()), fails(), 30))


def test_a_request_that_is_cancelled_stays_cancelled() -> None:
    async def scenario() -> None:
        work = Work()
        answering = asyncio.create_task(
            run_until_disconnect(request(asyncio.Event()), work.run(), 30)
        )
        await work.begun.wait()
        answering.cancel()
        await asyncio.wait([answering])
        assert answering.cancelled()
        assert work.cancelled

    asyncio.run(scenario())


def test_a_client_whose_connection_fails_has_gone() -> None:
    async def receive() -> dict[str, Any]:
        raise OSError("of a test")

    async def scenario() -> None:
        work = Work()
        failing = Request({"type": "http", "headers": []}, receive)
        with pytest.raises(ClientDisconnect):
            await run_until_disconnect(failing, work.run(), 30)
        assert work.cancelled
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()

    asyncio.run(scenario())
