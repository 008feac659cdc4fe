"""The noise floor of a spectrogram's bands is the percentile, and the share, that its spec says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model.media.reader import Sound
from model.preprocess.specs import PROFILES, SpectrogramSpec
from model.preprocess.spectrogram import prepare_spectrogram

RATE = 8000
SPEC = PROFILES["avdigits"]["audio"]
#: Ours without all that follows the floor, and as long as the sound.
assert isinstance(SPEC, SpectrogramSpec)
PLAIN = SPEC.model_copy(
    update={
        "window_s": None, "clip": None, "top_db": None, "mean": 0.0, "std": 1.0,
        "level": "clip", "resize": "antialias", "size": (64, 200),
    }
)  # fmt: skip
#: Of 3 s, the first is this much louder.
LOUDER = 10.0


def noisy() -> Sound:
    noise = 0.01 * np.random.default_rng(0).standard_normal(3 * RATE)
    noise[:RATE] *= LOUDER
    return Sound(noise[None].astype(np.float32), RATE)


def values(percentile: float | None, share: float = 1.0) -> NDArray[np.float32]:
    spec = PLAIN.model_copy(update={"floor_percentile": percentile, "floor_share": share})
    return prepare_spectrogram(noisy(), spec).tensor[0, 0]


def test_a_low_percentile_is_the_quiet_part_and_a_high_one_the_loud() -> None:
    quiet, loud = values(20.0), values(85.0)
    assert float(np.median(quiet - loud)) == pytest.approx(np.log(LOUDER), abs=0.3)
    later = quiet[:, 100:]  # where the noise is its own floor
    assert abs(float(np.median(later))) < 0.6


def test_the_floor_rises_with_its_percentile() -> None:
    medians = [float(np.median(values(percentile))) for percentile in (0, 10, 40, 60, 90, 100)]
    assert medians == sorted(medians, reverse=True)
    assert len(set(medians)) == len(medians)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_as_much_of_the_floor_is_taken_away_as_its_share_says(share: float) -> None:
    none, whole = values(None), values(20.0)
    np.testing.assert_allclose(values(20.0, share), none + share * (whole - none), atol=1e-4)
