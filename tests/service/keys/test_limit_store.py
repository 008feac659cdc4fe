"""Limits that processes share in a real Redis or Valkey, and the local ones while it is away."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from service.app import create_app
from service.errors import StartupError
from service.keys import limit_store
from service.keys.limit_store import LimitStore, StoreUnavailable
from service.keys.rate_limit import SharedRateLimits
from service.settings import Settings
from service.streaming import slots
from service.streaming.messages import StreamError
from service.streaming.slots import LocalStreamLimits
from tests.service.keys.redis_server import PROGRAMS, RedisServer, running_redis
from tests.service.running_server import listening

pytestmark = pytest.mark.slow


@pytest.fixture(params=PROGRAMS or [None])
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with running_redis(request.param) as server:
        yield server


def with_stores(
    server: RedisServer,
    test: Callable[[LimitStore, LimitStore], Awaitable[None]],
    timeout_s: float = 60,
) -> None:
    """Run a test with the stores of two processes."""

    async def run() -> None:
        stores = [LimitStore(server.url, timeout_s) for _ in range(2)]
        for store in stores:
            await store.open()
        try:
            await test(*stores)
        finally:
            for store in stores:
                await store.close()

    asyncio.run(run())


def test_processes_share_one_bucket_also_where_they_ask_at_once(redis: RedisServer) -> None:
    async def test(*stores: LimitStore) -> None:
        both = [SharedRateLimits(store) for store in stores]
        began = time.monotonic()
        waits = await asyncio.gather(*(limits.take("anna", 60) for limits in both * 100))
        passed = time.monotonic() - began
        accepted = waits.count(0.0)
        assert 60 <= accepted <= 60 + passed, "a token a second"
        assert all(0 <= wait <= 1 for wait in waits)
        assert await both[0].take("bert", 60) == 0, "another key has a bucket of its own"

    with_stores(redis, test)


def test_a_wait_is_enough_and_clips_are_made_up_for(redis: RedisServer) -> None:
    async def test(first: LimitStore, second: LimitStore) -> None:
        # A call of many clips is never refused.
        await SharedRateLimits(first).spend("fast", 6000, 6005)
        limits = SharedRateLimits(second)
        wait = await limits.take("fast", 6000)
        assert 0 < wait <= 0.06, "five tokens, and its own, at 100 a second"
        await asyncio.sleep(wait)
        assert await limits.take("fast", 6000) == 0

    with_stores(redis, test)


def test_without_the_store_each_process_limits_alone_until_it_answers_again(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limit_store, "_PAUSE_S", 0.2)
    caplog.set_level(logging.INFO, "scmrl.keys")

    async def test(first: LimitStore, second: LimitStore) -> None:
        limits, other = SharedRateLimits(first), SharedRateLimits(second)
        assert await limits.take("slow", 3) == 0
        redis.kill()
        assert [await limits.take("slow", 3) for _ in range(2)] == [0, 0]
        assert await limits.take("slow", 3) > 0, "what came before the outage counts"
        assert [await other.take("slow", 3) for _ in range(3)] == [0, 0, 0]
        assert (first.unanswered, second.unanswered) == (3, 3)
        warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert 2 <= len(warnings) < 6, "one of each process, not one of each request"
        assert "SCMRL_LIMIT_STORE" in warnings[0].getMessage()

        redis.start()
        await asyncio.sleep(0.2)
        assert await limits.take("slow", 3) == 0, "the new store knows of no request"
        await other.take("slow", 3)
        assert (first.unanswered, second.unanswered) == (3, 3)
        assert "answers again" in caplog.text

    with_stores(redis, test)


def test_a_store_that_hangs_delays_one_request_by_its_timeout(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_store, "_PAUSE_S", 60)

    async def test(first: LimitStore, _: LimitStore) -> None:
        redis.pause()
        with pytest.raises(StoreUnavailable):
            await first.take("anna", 60, 1, may_refuse=True)
        monkeypatch.setattr(first, "_take", None)  # it is not asked
        for _ in range(100):
            with pytest.raises(StoreUnavailable):
                await first.take("anna", 60, 1, may_refuse=True)
        assert first.unanswered == 101

    with_stores(redis, test, timeout_s=2)


def test_streams_of_a_key_are_bounded_over_processes(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_store, "LEASE_S", 1.0)
    monkeypatch.setattr(slots, "LEASE_S", 1.0)

    async def test(*stores: LimitStore) -> None:
        settings = Settings(stream_sessions=10, stream_sessions_per_key=2)
        first, second = (LocalStreamLimits(settings, store) for store in stores)

        async def refuses() -> None:
            with pytest.raises(StreamError) as caught:
                async with second.session("anna"):
                    pass
            assert "2 streams open" in caught.value.reason

        async with AsyncExitStack() as sessions:
            await sessions.enter_async_context(first.session("anna"))
            await sessions.enter_async_context(first.session("anna"))
            await refuses()
            async with second.session("bert"), second.session(""):
                pass
            await asyncio.sleep(1.5)
            await refuses()  # leases are renewed
        async with second.session("anna"), second.session("anna"):
            pass  # places are given back
        assert await stores[0].hold("anna", "dead", 1)
        assert not await stores[1].hold("anna", "next", 1)
        await asyncio.sleep(1.01)
        assert await stores[1].hold("anna", "next", 1), "a dead holder's lease ends"

    with_stores(redis, test)


def test_a_service_shares_the_limit_of_a_key(redis: RedisServer, weights: Path) -> None:
    settings = Settings(
        models=weights,
        decode_workers=1,
        api_keys="anna:correct-horse-17-battery:3",
        allow_weak_keys=True,
        limit_store=redis.url,
    )
    headers = {"Authorization": "Bearer correct-horse-17-battery"}

    async def test(store: LimitStore, _: LimitStore) -> None:
        assert await store.take("anna", 3, 1, may_refuse=True) == 0

    with_stores(redis, test)  # another process has taken one
    with listening(create_app(settings)) as client:
        answers = [client.get("/v1/models", headers=headers) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        redis.kill()
        metrics = client.get("/metrics", headers=headers)  # its third of three
        assert "scmrl_limit_store_unanswered_total 1.0" in metrics.text


def test_an_unusable_store_is_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis", reason="needs the extra redis")
    with pytest.raises(StartupError, match="SCMRL_LIMIT_STORE") as caught:
        asyncio.run(LimitStore("redis://host:port/0", 0.5).open())
    assert caught.value.misused
    with pytest.raises(ValueError, match="redis://"):
        Settings(limit_store="127.0.0.1:6379")
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(StartupError, match=r"extra redis") as caught:
        asyncio.run(LimitStore("redis://127.0.0.1:1", 0.5).open())
    assert caught.value.misused
