"""What is counted of one request, without a service around it."""

from __future__ import annotations

import time

from prometheus_client.parser import text_string_to_metric_families
from starlette.datastructures import Headers

from service.errors import Error, Problem
from service.observability.metrics import Metrics, RequestMetrics
from service.request_record import CompletedRequest, RequestRecord, Stage

_TELLING = ("stage", "reason", "stream", "model")


def counts(record: RequestRecord, problem: Problem | None = None) -> dict[tuple[str, str], float]:
    """Samples by name and value of their distinguishing label, after a request of this record."""
    all_metrics = Metrics("0.0.1")
    metrics = RequestMetrics(all_metrics.registry)
    now = time.perf_counter()
    metrics.measure(
        CompletedRequest(
            id="a", method="POST", path="/v1/classify", route="/v1/classify", headers=Headers(),
            status=200, started=now - 1, ended=now, record=record, problem=problem,
        )
    )  # fmt: skip
    text = all_metrics.exposition("text/plain")[0].decode()
    return {
        (sample.name, next((v for k in _TELLING if (v := sample.labels.get(k))), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_stage_that_failed_is_not_timed() -> None:
    stages = [Stage("decode", 0.0, 2.0), Stage("run", 2.0, 3.0, failed=True)]
    samples = counts(RequestRecord(model="digits", stages=stages))
    assert samples["scmrl_stage_seconds_sum", "decode"] == 2.0
    assert ("scmrl_stage_seconds_count", "run") not in samples


def test_an_answer_of_fewer_steps_under_load_is_counted() -> None:
    rates = {"audio": 0.1}
    degraded = counts(RequestRecord(model="digits", firing_rates=rates, degraded=True))
    whole = counts(RequestRecord(model="digits", firing_rates=rates))
    assert degraded["scmrl_degraded_total", "digits"] == 1
    assert whole["scmrl_degraded_total", "digits"] == 0
    assert degraded["scmrl_firing_rate_sum", "audio"] == 0.1


def test_a_problem_is_a_reject_of_its_kind() -> None:
    samples = counts(RequestRecord(), Problem(Error.FULL, "of a test"))
    assert samples["scmrl_rejects_total", "full"] == 1
    assert samples["scmrl_rejects_total", "deadline"] == 0


def test_each_clip_of_several_counts_as_if_it_were_a_request() -> None:
    record = RequestRecord(model="digits")
    for number in range(3):
        clip = record.begin_clip()
        clip.stages.append(Stage("decode", 0.0, 1.0))
        clip.firing_rates, clip.degraded = {"audio": 0.1}, number == 0
    record.clips[2].problem = Problem(Error.UNUSABLE, "of a test")
    samples = counts(record)
    assert samples["scmrl_stage_seconds_sum", "decode"] == 3.0
    assert samples["scmrl_firing_rate_count", "audio"] == 3
    assert samples["scmrl_degraded_total", "digits"] == 1
    assert samples["scmrl_rejects_total", "unusable"] == 1
