"""Benchmarks measure what they say: their clips, their load and their sums."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from model.media import reader
from service.bench import load
from service.bench.clips import MIX, ClipSpec, render_clip
from service.bench.load import Sent
from service.bench.scaling import _growth

pytest.importorskip("aiohttp", reason="scmrl[bench] is not installed")


@pytest.mark.parametrize("spec", [spec for spec, _ in MIX], ids=[spec.name for spec, _ in MIX])
def test_its_clips_are_what_they_are_called(spec: ClipSpec) -> None:
    clip = reader.read_clip(render_clip(spec), 2)
    assert clip.pictures is not None
    assert clip.sound is not None
    assert clip.pictures.frames[0].shape == (spec.height, spec.width, 3)
    assert clip.sound.duration_s == pytest.approx(spec.seconds, abs=0.1)
    assert clip.pictures.times_s[1] - clip.pictures.times_s[0] == pytest.approx(
        spec.seconds / 2, abs=2 / spec.rate
    )


def test_an_open_load_asks_at_its_rate_and_tells_what_was_answered(service: httpx.Client) -> None:
    url = f"{service.base_url}/v1/classify"
    seen = asyncio.run(load.opened(url, load.bodies()[:1], rate=8, seconds=2))
    assert seen.refused == {}
    assert 4 <= seen.answered_s * seen.seconds <= 40
    assert 0 < seen.p50_ms <= seen.p95_ms <= seen.p99_ms
    assert sum(seen.batch_sizes.values()) == round(seen.answered_s * seen.seconds)
    assert 0 < sum(seen.shares.values()) <= 1
    assert seen.shares["decode"] > 0


def test_its_forms_carry_more_fields_than_the_clip(service: httpx.Client) -> None:
    kind = {"Content-Type": f"multipart/form-data; boundary={load._BOUNDARY}"}
    answer = service.post("/v1/classify", content=load.bodies(steps=2)[0], headers=kind)
    assert answer.json()["steps"] == 2


def test_an_overload_accounts_for_every_request(service: httpx.Client) -> None:
    url = f"{service.base_url}/v1/classify"
    over = asyncio.run(load.overloaded(url, load.bodies()[:1], rate=400, seconds=1))
    assert 300 <= over.sent <= 500
    assert over.answered > 0
    assert over.answered + over.refused == over.sent
    assert over.others == {}
    assert over.after_ms > 0, "it answers again"


def test_a_server_that_is_not_there_answers_nothing() -> None:
    seen = asyncio.run(load.opened("http://127.0.0.1:9/v1/classify", [b""], rate=20, seconds=0.2))
    assert seen.answered_s == 0
    assert set(seen.refused) == {0}


def test_latencies_and_shares_are_of_answers_alone() -> None:
    timing = {"decode": 10.0, "preprocess": 5.0, "queue": 1.0, "inference": 4.0}
    sent = [Sent(0.040, 200, timing, 2), Sent(0.040, 200, timing, 2), Sent(9.0, 503)]
    seen = load._seen(sent, 2.0, 5.0)
    assert (seen.answered_s, seen.p50_ms, seen.p99_ms) == (1.0, 40, 40)
    assert seen.refused == {503: 1}
    assert seen.batch_sizes == {2: 2}
    assert seen.shares == {"decode": 0.25, "preprocess": 0.125, "queue": 0.025, "inference": 0.1}


def test_growth_is_a_line_s() -> None:
    growth = _growth("step", "ms", (1, 2, 4), (5.0, 7.0, 11.0))
    assert (growth.slope, growth.offset) == pytest.approx((2, 3))
