"""Intervals of a study have the coverage that they claim, and pairs of clips are compared."""

from __future__ import annotations

import numpy as np
import pytest

from model.training.study.estimate import estimate


def test_the_interval_holds_the_true_mean_in_about_95_of_100_cases() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        result = estimate([rng.normal(3.0, 1.0, 100)])
        assert result is not None
        covered += abs(result.value - 3.0) < result.half
    assert 180 <= covered <= 199


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_interval_holds_the_mean_of_all_seeds(seeds: int) -> None:
    """Seeds differ as much as a mean over clips does: more than a few seeds alone would tell."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        clips = rng.normal(3.0, 1.0, 100)  # the same for all seeds
        runs = [clips + rng.normal(0, 0.1) for _ in range(seeds)]
        result = estimate(runs)
        assert result is not None
        covered += abs(result.value - 3.0) < result.half
    assert 180 <= covered <= 199


def test_clips_that_are_all_right_have_an_interval_nevertheless() -> None:
    result = estimate([np.ones(100)], share=True)
    assert result is not None
    assert result.value == 1
    assert 0.01 < result.half < 0.05


def test_a_small_difference_on_the_same_clips_is_detected() -> None:
    rng = np.random.default_rng(1)
    clips = rng.normal(0, 1, 200)
    better = estimate([clips + 0.1 + rng.normal(0, 0.01, 200)], reference=[clips])
    same = estimate([clips + rng.normal(0, 0.01, 200)], reference=[clips])
    assert better is not None
    assert same is not None
    assert better.half > 0.1  # the interval of the mean alone holds that of the reference
    assert better.difference is not None
    assert better.difference.is_sure
    assert same.difference is not None
    assert not same.difference.is_sure


def test_equal_answers_are_no_proof_of_no_difference() -> None:
    result = estimate([np.ones(100)], reference=[np.ones(100)], share=True)
    assert result is not None
    assert result.difference is not None
    assert result.difference.value == 0
    assert 0.01 < result.difference.half < 0.05


def test_several_seeds_widen_the_interval_where_they_disagree() -> None:
    rng = np.random.default_rng(2)
    runs = [rng.normal(mean, 0.1, 100) for mean in (0.0, 1.0, 2.0)]
    apart, alike = estimate(runs), estimate([runs[0], runs[0], runs[0]])
    assert apart is not None
    assert alike is not None
    assert apart.value == pytest.approx(1.0, abs=0.05)
    assert apart.half > 10 * alike.half
    assert (apart.seeds, apart.clips) == (3, 100)


def test_confidence_and_accuracy_give_the_calibration_error() -> None:
    confidence = np.full(100, 0.9)
    correct = np.repeat([1.0, 0.0], [60, 40])
    result = estimate([np.stack([confidence, correct], axis=1)])
    assert result is not None
    assert result.value == pytest.approx(0.3)


def test_values_that_do_not_exist_have_no_estimate() -> None:
    assert estimate([np.full(5, np.nan)]) is None
    some = estimate([np.array([1.0, np.nan, 3.0])])
    assert some is not None
    assert some.value == 2
