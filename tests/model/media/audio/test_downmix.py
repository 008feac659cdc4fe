"""Downmix: the average, except where channels cancel each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.media.audio.downmix import downmix, to_mono
from model.media.reader import Sound
from tests.model.media_files import Floats

RATE = 16_000


def noise(seed: int, seconds: float = 1.0) -> Floats:
    samples = np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE))
    return samples.astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 6, 16])
@pytest.mark.parametrize("kind", ["equal", "unrelated", "one alone"])
def test_channels_that_do_not_cancel_are_averaged(channels: int, kind: str) -> None:
    samples = np.stack([noise(0 if kind == "equal" else index) for index in range(channels)])
    if kind == "one alone":
        samples[1:] = 0
    channel, method = downmix(Sound(samples, RATE))
    assert method == "average"
    np.testing.assert_allclose(channel, samples.mean(axis=0), atol=1e-6)


@given(
    channels=st.integers(2, 8).filter(lambda count: count % 2 == 0),
    gain=st.floats(0.8, 1.0),
    noise_db=st.floats(-60, -6),
    offset=st.floats(-0.5, 0.5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_inverted_channels_give_the_strongest_channel(
    channels: int, gain: float, noise_db: float, offset: float, seed: int
) -> None:
    word = noise(seed)
    room = np.stack([noise(1000 + seed + index) for index in range(channels)])
    signs = np.resize([-gain, 1.0], channels)[:, None]
    samples = signs * word + 10 ** (noise_db / 20) * room + np.float32(offset)
    channel, method = downmix(Sound(samples.astype(np.float32), RATE))
    assert method == "strongest channel"
    assert abs(np.corrcoef(channel, word)[0, 1]) > 0.85


def test_a_part_that_cancels_gives_the_strongest_channel() -> None:
    first, second = noise(0), noise(1)
    samples = np.stack([np.append(first, second), np.append(first, -second)])
    channel, method = downmix(Sound(samples, RATE))
    assert method == "strongest channel"
    np.testing.assert_array_equal(channel, samples[0])


def test_the_strongest_channel_ignores_dc_offset() -> None:
    word = noise(0)
    samples = np.stack([0.5 - 0.9 * word, word]).astype(np.float32)
    channel, method = downmix(Sound(samples, RATE))
    assert method == "strongest channel"
    np.testing.assert_array_equal(channel, samples[1])


@pytest.mark.parametrize("value", [0.0, 0.25, 3e38])
@pytest.mark.parametrize("length", [1, 7, 5000])
def test_silence_and_extreme_values_are_averaged_and_finite(value: float, length: int) -> None:
    sound, method = to_mono(Sound(np.full((3, length), value, np.float32), 1000))
    assert method == "average"
    assert sound.samples.shape == (1, length)
    np.testing.assert_allclose(sound.samples, value, rtol=1e-6)


@given(
    channels=st.integers(2, 5),
    length=st.integers(1, 3 * RATE // 10),
    rate=st.sampled_from([20, 800, 8000, 48_000]),
    correlation=st.sampled_from([-1.0, -0.9, -0.6, -0.5, -0.4]) | st.floats(-1, 1),
    part=st.floats(0, 1),
    offset=st.sampled_from([0.0, 0.01, 1e3]),
    scale=st.sampled_from([1e-22, 1.0, 1e19, 1e37]),
    seed=st.integers(0, 99),
)
@example(2, 4000, 8000, -1.0, 1.0, 0.0, 1e-22, 0)  # squares are below the range of float32
@example(2, 4000, 8000, -1.0, 1.0, 0.0, 1e22, 0)  # above
@example(2, 4000, 8000, -1.0, 1.0, 1e3, 1.0, 0)  # lost beside the offset
@settings(max_examples=150)
def test_energies_in_float32_decide_as_those_in_float64(
    channels: int,
    length: int,
    rate: int,
    correlation: float,
    part: float,
    offset: float,
    scale: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    first, others = rng.normal(0, 0.1, length), rng.normal(0, 0.1, (channels - 1, length))
    correlated = correlation * first + (1 - abs(correlation)) * others
    correlated[:, round(part * length) :] = first[round(part * length) :]
    samples = (scale * (np.vstack([first, correlated]) + offset)).clip(-3e38, 3e38)
    sound = Sound(samples.astype(np.float32), rate)
    with pytest.MonkeyPatch.context() as patch:
        by_default = downmix(sound)
        patch.setattr("model.media.audio.downmix._is_surely_kept", lambda *arguments: False)
        in_float64 = downmix(sound)
    assert by_default[1] == in_float64[1]
    np.testing.assert_array_equal(by_default[0], in_float64[0])


def test_an_ordinary_stereo_sound_needs_no_energies_in_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.media.audio.downmix._block_energies", None)
    samples = np.stack([noise(0), 0.6 * noise(0) + 0.3 * noise(1)]) + np.float32(0.01)
    assert downmix(Sound(samples, RATE))[1] == "average"
