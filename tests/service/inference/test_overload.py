"""Latency of accepted requests under ten times the load that two cores can answer."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from service.errors import Problem
from service.inference import admission as admission_module
from service.inference.admission import Admission
from service.settings import Settings

#: Requests per second that the simulated service can answer, and seconds of work of a clip of the
#: mixed load on one core, with its share.
RATE, CORES = 20.0, 2
WORK_S, SHARES = np.array([0.034, 0.07, 0.13]), (0.5, 0.3, 0.2)


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def latencies(admission: Admission, clock: Clock, seed: int) -> list[float]:
    """Simulate ten seconds of half the load, and a minute of ten times as much as is answered."""
    rng = np.random.default_rng(seed)
    work_s = WORK_S * (CORES / RATE / float(WORK_S @ SHARES))
    queue: list[float] = []
    running: list[tuple[float, float]] = []  # end, arrival
    answered: list[float] = []
    arrival = -10.0
    while arrival < 60:
        arrival += float(rng.exponential(1 / (RATE * (0.5 if arrival < 0 else 10))))
        while running and running[0][0] < arrival:
            clock.now, arrived = heapq.heappop(running)
            admission.release()
            answered.append(clock.now - arrived)
            if queue:
                end = clock.now + float(rng.choice(work_s, p=SHARES))
                heapq.heappush(running, (end, queue.pop(0)))
        clock.now = arrival
        try:
            admission.acquire()
        except Problem:
            continue
        if len(running) < CORES:
            heapq.heappush(running, (arrival + float(rng.choice(work_s, p=SHARES)), arrival))
        else:
            queue.append(arrival)
    return answered


@pytest.mark.parametrize("seed", range(3))
def test_accepted_requests_wait_about_equally_long(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    clock = Clock()
    monkeypatch.setattr(admission_module, "time", clock)
    limit_s = Settings.model_fields["max_wait_s"].default
    admission = Admission(slots=1000, max_wait_s=limit_s, always_admit=16)
    answered_s = latencies(admission, clock, seed)
    p50, p99 = np.percentile(answered_s, (50, 99))
    assert len(answered_s) > 0.95 * 60 * RATE, "as many as without the overload"
    assert p50 < 1.2
    assert p99 < 1.6 * p50
