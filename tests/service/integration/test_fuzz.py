"""Damaged files of every kind, a few of them; `python -m tests.fuzz` sends tens of thousands."""

from __future__ import annotations

from collections import deque

import httpx

from tests.conftest import ROOT
from tests.fuzz.barrage import barrage, seeds
from tests.fuzz.mutations import mutated

SEEDS = seeds(ROOT / "tests" / "data" / "seeds")
COUNT = 250


def test_the_seeds_themselves_are_answered(service: httpx.Client) -> None:
    """A mutation of a file that is refused anyway says little."""
    for seed in SEEDS:
        response = service.post("/v1/classify", files=seed.form(seed.data))
        assert response.status_code == 200, (seed.name, response.text)


def test_a_mutation_is_the_same_each_time_and_another_each_number() -> None:
    datas = [seed.data for seed in SEEDS]
    mutations = [mutated(datas, number) for number in range(100)]
    assert mutations == [mutated(datas, number) for number in range(100)]
    assert len({data for _, data in mutations}) > 95
    assert sum(data == datas[index] for index, data in mutations) < 5


def test_a_file_of_one_byte_can_be_mutated_too() -> None:
    for number in range(200):
        assert mutated([b"x"], number)[1]


def test_damaged_files_are_answered_or_refused(service: httpx.Client) -> None:
    (outcome,) = deque(barrage(service, SEEDS, range(COUNT), at_once=4, longest_s=60), maxlen=1)
    assert outcome.wrong == []
    assert sum(outcome.statuses.values()) == COUNT
    assert outcome.statuses[422] > COUNT / 20
    assert outcome.statuses[200] > COUNT / 20
    assert service.get("/readyz").status_code == 200
