"""The clips, the load and the summaries of the benchmarks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from model.media import reader
from service.bench import comparison, cpu_time, load, preprocess, servers, streams, tensors
from service.bench.clips import MIX, ClipSpec, render_clip
from service.bench.litserve_setup import LitServeSetup, setups
from service.bench.load import LoadResult, RequestOutcome
from service.bench.scaling import _fit
from service.bench.servers import Server
from service.commands.app import app
from service.runtime import cores

pytestmark = pytest.mark.slow

pytest.importorskip("aiohttp", reason="scmrl[bench] is not installed")


@pytest.mark.parametrize("spec", [spec for spec, _ in MIX], ids=[spec.name for spec, _ in MIX])
def test_clips_are_what_their_names_say(spec: ClipSpec) -> None:
    clip = reader.read_clip(render_clip(spec), 2)
    assert clip.pictures is not None
    assert clip.sound is not None
    assert clip.pictures.frames[0].shape == (spec.height, spec.width, 3)
    assert clip.sound.duration_s == pytest.approx(spec.seconds, abs=0.1)
    assert clip.pictures.times_s[1] - clip.pictures.times_s[0] == pytest.approx(
        spec.seconds / 2, abs=2 / spec.rate
    )


def test_preprocessing_is_timed_by_clip_and_data_set() -> None:
    timings = preprocess.timings(rounds=1)
    assert [(each.profile, each.clip) for each in timings] == [
        (profile, spec.name) for profile, spec in preprocess.CLIPS
    ]
    for each in timings:
        assert min(each.sound_ms, each.pictures_ms) > 0
        assert each.both_ms == pytest.approx(each.sound_ms + each.pictures_ms)


def test_a_stereo_clip_has_two_channels() -> None:
    _, spec = preprocess.CLIPS[-1]
    sound = reader.read_clip(render_clip(spec), 2).sound
    assert sound is not None
    left, right = (channel.std() for channel in sound.samples)
    assert right == pytest.approx(left / 2, rel=0.05)


def test_an_open_loop_sends_at_its_rate_and_counts_responses(service: httpx.Client) -> None:
    url = f"{service.base_url}/v1/classify"
    result = asyncio.run(load.run_open_loop(url, load.build_forms()[:1], rate=8, seconds=2))
    assert result.failed == {}
    assert 4 <= result.answered_per_s * result.seconds <= 40
    assert 0 < result.p50_ms <= result.p95_ms <= result.p99_ms
    assert sum(result.batch_sizes.values()) == round(result.answered_per_s * result.seconds)
    assert 0 < sum(result.stage_shares.values()) <= 1
    assert result.stage_shares["decode"] > 0


def test_forms_have_further_fields_beside_the_clip(service: httpx.Client) -> None:
    kind = {"Content-Type": f"multipart/form-data; boundary={load._BOUNDARY}"}
    answer = service.post("/v1/classify", content=load.build_forms(steps=2)[0], headers=kind)
    assert answer.json()["steps"] == 2


def test_an_overload_accounts_for_every_request(service: httpx.Client) -> None:
    url = f"{service.base_url}/v1/classify"
    over = asyncio.run(load.run_overload(url, load.build_forms()[:1], rate=400, seconds=1))
    assert 300 <= over.sent <= 500
    assert over.answered > 0
    assert over.answered + over.rejected == over.sent
    assert over.failed == {}
    assert over.recovery_ms > 0, "it answers again"


def test_a_server_that_does_not_run_answers_no_request() -> None:
    result = asyncio.run(
        load.run_open_loop("http://127.0.0.1:9/v1/classify", [b""], rate=20, seconds=0.2)
    )
    assert result.answered_per_s == 0
    assert set(result.failed) == {0}


def test_latencies_and_stage_shares_are_of_answered_requests_only() -> None:
    timing = {"decode": 10.0, "preprocess": 5.0, "queue": 1.0, "inference": 4.0}
    sent = [
        RequestOutcome(0.040, 200, timing, 2),
        RequestOutcome(0.040, 200, timing, 2),
        RequestOutcome(9.0, 503),
    ]
    result = load._summarize(sent, 2.0, 5.0)
    assert (result.answered_per_s, result.p50_ms, result.p99_ms) == (1.0, 40, 40)
    assert result.failed == {503: 1}
    assert result.batch_sizes == {2: 2}
    assert result.stage_shares == {
        "decode": 0.25,
        "preprocess": 0.125,
        "queue": 0.025,
        "inference": 0.1,
    }


def test_scaling_is_fitted_by_a_line() -> None:
    scaling = _fit("step", "ms", (1, 2, 4), (5.0, 7.0, 11.0))
    assert (scaling.slope, scaling.offset) == pytest.approx((2, 3))


def test_live_sessions_are_answered_beside_clients_that_misbehave(service: httpx.Client) -> None:
    url = f"{service.base_url}/v1/classify"
    for seconds in (2, 10, 40):  # longer where other work takes the processors
        result = asyncio.run(
            streams.run(url, os.getpid(), sessions=2, seconds=seconds, warm_up_s=1)
        )
        if all(each.behind_ms for each in result.sessions):
            break
    for each in result.sessions:
        assert each.closed is None
        assert each.window_s == 2
        assert each.behind_ms, "it was answered"
        assert len(each.lag_ms) == len(each.behind_ms) == len(each.stale_ms) + 1
    assert result.memory_mib[0][0] > 50
    assert result.uploads_failed == 0


def test_growth_is_that_of_the_last_tenth_over_the_first() -> None:
    readings = [(100.0 + number // 10, 50.0) for number in range(100)]
    result = streams.StreamsLoad([], 1.0, readings)
    assert result.memory_growth(0) == pytest.approx(0.09)
    assert result.memory_growth(1) == 0


def test_tensors_are_timed_alone_through_the_queue_and_as_answers(weights: Path) -> None:
    speed = tensors.measure(weights / "avdigits", "cpu", max_batch=2, seconds=0.2, rounds=1)
    assert speed.max_batch == 2
    assert min(speed.engine, speed.queue, speed.answers) > 0


@pytest.mark.parametrize("command", ["tensors", "devices"])
def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path, command: str) -> None:
    refused = CliRunner().invoke(app, ["bench", command, "--weights", str(tmp_path / "nowhere")])
    assert refused.exit_code == 2
    assert "Traceback" not in refused.output
    assert "--weights" in refused.output


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(1, 2), (2, 1)]),
        (6, [(1, 6), (2, 3), (4, 1), (6, 1)]),
        (16, [(1, 16), (2, 8), (4, 4), (8, 2), (16, 1)]),
    ],
)
def test_litserve_is_tried_with_one_worker_up_to_one_for_each_core(
    cores: int, expected: list[tuple[int, int]]
) -> None:
    assert [(each.workers, each.threads) for each in setups(cores)] == expected


def test_litserve_is_compared_with_the_setup_in_which_it_is_fastest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = {LitServeSetup(1, 2): 5.0, LitServeSetup(2, 1): 8.0}

    @contextmanager
    def run_litserve(*arguments: object) -> Iterator[Server]:
        setup = next(each for each in arguments if isinstance(each, LitServeSetup))
        yield Server(f"LitServe, {setup}", 0)

    @contextmanager
    def run_scmrl(*arguments: object, **settings: str) -> Iterator[Server]:
        yield Server("scmrl", 0)

    async def run_closed_loop(url: str, *arguments: object) -> LoadResult:
        by_url = {f"LitServe, {setup}": rate for setup, rate in rates.items()}
        return LoadResult(None, by_url.get(url, 12.0), 1, 2, 3, {}, {}, {}, 1.0)

    async def run_open_loop(url: str, forms: object, rate: float, seconds: float) -> LoadResult:
        return LoadResult(rate, rate, len(url), 2, 3, {}, {}, {}, seconds)

    monkeypatch.setattr(cores, "available", lambda: 2)
    monkeypatch.setattr(servers, "run_litserve", run_litserve)
    monkeypatch.setattr(servers, "run_scmrl", run_scmrl)
    monkeypatch.setattr(cpu_time, "wait_until_idle", lambda pid: None)
    for name, replacement in (
        ("warm_up", lambda *arguments: None),
        ("run_closed_loop", run_closed_loop),
        ("run_open_loop", run_open_loop),
    ):
        monkeypatch.setattr(load, name, replacement)

    compared = comparison.compare(Path("weights"), 8, "cpu", "fused", [b""], seconds=1, rounds=2)

    assert compared.tried == rates
    assert compared.setup == LitServeSetup(2, 1)
    assert len(compared.rounds) == 2
    for litserve, scmrl in compared.rounds:
        assert litserve.peak.answered_per_s == 8
        assert scmrl.peak.answered_per_s == 12
        for loads in (litserve, scmrl):
            assert loads.steady.offered_per_s == pytest.approx(0.7 * 8)
    assert compared.speedup == 1.5

    rates.update(dict.fromkeys(rates, 0.0))
    with pytest.raises(RuntimeError, match="LitServe, fused network answered no request"):
        comparison.compare(Path("weights"), 8, "cpu", "fused", [b""], seconds=1, rounds=2)
