"""Spectrograms: as published, with axes in hertz and seconds, and with a noise floor."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from model.media.audio.resample import resample_sinc
from model.media.reader import Sound, read_sound
from model.preprocess.prepared import Prepared
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import SpectrogramSpec
from model.preprocess.spectrogram import _moving_average, _to_mono, prepare_spectrogram
from tests.model.media_files import Floats, tone

pytestmark = pytest.mark.filterwarnings("error")


def _sound_spec(profile: str) -> SpectrogramSpec:
    spec = PROFILES[profile]["audio"]
    assert isinstance(spec, SpectrogramSpec)
    return spec


PAPER, OURS = _sound_spec("crema_d"), _sound_spec("avdigits")
#: Ours without its ceiling, which a loud tone reaches in several rows at once, and deep enough for
#: the room to be heard beside the tone: where it is not, a tone without end is its own noise floor.
UNCLIPPED = OURS.model_copy(update={"clip": None, "top_db": 60.0})
RATE = 16_000


def burst(pitch: float, begin: float, end: float, seconds: float = 2.0) -> Sound:
    """A tone from `begin` to `end` in a quiet room, all in seconds."""
    time = np.arange(round(seconds * RATE)) / RATE
    sounding = (time >= begin) & (time < end)
    room = 0.003 * np.random.default_rng(0).standard_normal(len(time))
    samples = 0.5 * sounding * np.sin(2 * np.pi * pitch * time) + room
    return Sound(samples.astype(np.float32)[None], RATE)


def loudest_cell(prepared: Prepared) -> tuple[int, int]:
    """Row and column of the loudest cell."""
    values = prepared.tensor[0, 0]
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return int(row), int(column)


# --- as published --------------------------------------------------------------------------


@pytest.fixture
def golden(shared: Path) -> Path:
    return shared / "golden/preprocessing"


def test_a_spectrogram_at_the_published_rate_is_the_published_one(golden: Path) -> None:
    theirs = load_file(golden / "wav22k.safetensors")["audio"]
    ours = prepare_spectrogram(read_sound((golden / "wav22k.wav").read_bytes()), PAPER).tensor
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours[0], theirs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["wav16k", "wav44k"])
def test_a_resampled_spectrogram_is_close_to_the_published_one(golden: Path, name: str) -> None:
    theirs = load_file(golden / f"{name}.safetensors")
    sound = read_sound((golden / f"{name}.wav").read_bytes())
    resampled = resample_sinc(sound.samples[0], sound.sample_rate, 22_050)
    np.testing.assert_allclose(resampled, theirs["resampled"][0], atol=2e-5, rtol=0)
    errors = np.abs(prepare_spectrogram(sound, PAPER).tensor[0] - theirs["audio"])
    assert errors.mean() < 0.005
    assert errors.max() < 0.5


# --- axes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [PAPER, UNCLIPPED], ids=["published", "mel"])
@pytest.mark.parametrize("pitch", [300.0, 1000.0, 3000.0])
def test_a_tone_is_brightest_in_the_row_of_its_frequency(
    spec: SpectrogramSpec, pitch: float
) -> None:
    prepared = prepare_spectrogram(burst(pitch, 0.8, 1.2), spec)
    row, _ = loudest_cell(prepared)
    assert prepared.rows == "frequency_hz"
    slack = max(spec.sample_rate / spec.n_fft, np.diff(prepared.row_edges)[row]) / 2
    assert prepared.row_edges[row] - slack <= pitch <= prepared.row_edges[row + 1] + slack


@pytest.mark.parametrize("spec", [PAPER, OURS], ids=["published", "mel"])
@pytest.mark.parametrize("begin", [0.1, 0.7, 1.5])
def test_a_tone_is_bright_in_the_columns_of_its_time(spec: SpectrogramSpec, begin: float) -> None:
    prepared = prepare_spectrogram(burst(1000, begin, begin + 0.3), spec)
    row, _ = loudest_cell(prepared)
    values = prepared.tensor[0, 0, row]
    bright = np.flatnonzero(values > (values.max() + values.min()) / 2)
    assert prepared.columns == "time_s"
    reach = spec.n_fft / spec.sample_rate / 2 + np.diff(prepared.column_edges)[0]
    assert prepared.column_edges[bright[0]] == pytest.approx(begin, abs=reach)
    assert prepared.column_edges[bright[-1] + 1] == pytest.approx(begin + 0.3, abs=reach)


@pytest.mark.parametrize("spec", [PAPER, OURS], ids=["published", "mel"])
def test_axes_have_one_edge_more_than_cells_and_ascend(spec: SpectrogramSpec) -> None:
    prepared = prepare_spectrogram(burst(1000, 0.2, 0.5), spec)
    height, width = spec.size
    assert prepared.tensor.shape == (1, 1, height, width)
    assert prepared.row_edges.shape == (height + 1,)
    assert prepared.column_edges.shape == (width + 1,)
    assert (np.diff(prepared.row_edges) > 0).all()
    assert (np.diff(prepared.column_edges) > 0).all()
    assert prepared.row_edges[0] >= spec.fmin
    assert prepared.row_edges[-1] <= spec.max_frequency


def test_a_published_spectrogram_spans_the_whole_sound() -> None:
    prepared = prepare_spectrogram(burst(1000, 0.2, 0.5, seconds=3), PAPER)
    column = PAPER.hop_length / PAPER.sample_rate
    assert prepared.column_edges[0] == pytest.approx(-column / 2)
    assert prepared.column_edges[-1] == pytest.approx(3, abs=column)
    assert prepared.row_edges[0] == 0
    assert prepared.row_edges[-1] == PAPER.sample_rate / 2


def test_a_window_spans_window_s_and_may_begin_before_the_sound() -> None:
    assert OURS.window_s is not None
    short = prepare_spectrogram(burst(1000, 0.1, 0.3, seconds=0.4), OURS)
    assert short.column_edges[-1] - short.column_edges[0] == pytest.approx(OURS.window_s, abs=0.01)
    assert short.column_edges[0] < -0.2
    assert short.column_edges[-1] > 0.6


def test_the_word_is_in_the_middle_of_the_window() -> None:
    for begin in (0.0, 1.0, 4.5):
        prepared = prepare_spectrogram(burst(800, begin, begin + 0.4, seconds=5), OURS)
        middle = prepared.column_edges[[0, -1]].mean()
        assert middle == pytest.approx(begin + 0.2, abs=0.05)


def test_a_window_inside_does_not_reach_beyond_a_longer_sound() -> None:
    inside = OURS.model_copy(update={"window_inside": True})
    for begin in (0.0, 1.0, 4.6):
        sound = burst(800, begin, begin + 0.4, seconds=5)
        edges = prepare_spectrogram(sound, inside).column_edges
        assert edges[0] >= -0.01
        assert edges[-1] <= 5.01
        assert edges[0] - 0.01 <= begin
        assert edges[-1] + 0.01 >= begin + 0.4
    middle = burst(800, 1.0, 1.4, seconds=5)
    plain, same = (prepare_spectrogram(middle, spec).tensor for spec in (OURS, inside))
    assert np.array_equal(plain, same)
    short = burst(1000, 0.1, 0.3, seconds=0.4)
    plain, same = (prepare_spectrogram(short, spec).tensor for spec in (OURS, inside))
    assert np.array_equal(plain, same)
    with pytest.raises(ValueError, match="window_inside requires window_s"):
        SpectrogramSpec(
            sample_rate=8000, n_fft=256, hop_length=60, size=(64, 64), window_inside=True
        )


def test_the_canvas_is_the_tensor_in_colours() -> None:
    prepared = prepare_spectrogram(burst(1000, 0.8, 1.2), OURS)
    assert prepared.canvas().shape == (*OURS.size, 3)
    assert prepared.canvas().dtype == np.uint8
    values, brightness = prepared.tensor[0, 0], prepared.canvas().astype(int).sum(axis=2)
    assert brightness[values == values.max()].min() > brightness[values == 0].max()


# --- values ---------------------------------------------------------------------------------


def _noisy_word(seconds: float = 1.0) -> Floats:
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * RATE)) / RATE
    word = np.sin(2 * np.pi * 700 * time) * np.exp(-(((time - seconds / 2) / 0.1) ** 2))
    return (0.4 * word + 0.004 * rng.standard_normal(len(time))).astype(np.float32)[None]


@pytest.mark.parametrize("gain", [1e-4, 0.1, 2.0, 1e4])
def test_level_peak_is_independent_of_gain(gain: float) -> None:
    word = _noisy_word()
    quiet = prepare_spectrogram(Sound(word, RATE), OURS)
    loud = prepare_spectrogram(Sound(word * np.float32(gain), RATE), OURS)
    np.testing.assert_allclose(loud.tensor, quiet.tensor, atol=2e-3)
    np.testing.assert_array_equal(loud.column_edges, quiet.column_edges)


def test_level_clip_depends_on_gain_as_published() -> None:
    word = Sound(_noisy_word(), RATE)
    louder = prepare_spectrogram(Sound(word.samples * 2, RATE), PAPER).tensor
    apart = louder - prepare_spectrogram(word, PAPER).tensor
    assert float(np.median(apart)) == pytest.approx(np.log(2), abs=0.05)


def test_samples_above_full_scale_are_clipped_as_published() -> None:
    sound = tone(0.5, PAPER.sample_rate) * 4
    clipped = np.clip(sound, -1, 1)
    np.testing.assert_array_equal(
        prepare_spectrogram(Sound(sound, PAPER.sample_rate), PAPER).tensor,
        prepare_spectrogram(Sound(clipped, PAPER.sample_rate), PAPER).tensor,
    )


def test_silence_around_a_word_shifts_its_window_only() -> None:
    word = _noisy_word()
    alone = prepare_spectrogram(Sound(word, RATE), OURS)
    padded = np.pad(word, ((0, 0), (RATE, RATE // 2)))
    around = prepare_spectrogram(Sound(padded, RATE), OURS)
    assert around.column_edges[0] - alone.column_edges[0] == pytest.approx(1, abs=0.02)
    assert np.abs(around.tensor - alone.tensor).mean() < 0.02
    outside = (alone.column_edges[1:] < -0.02) | (alone.column_edges[:-1] > 1.02)
    assert outside.sum() > 20
    assert (alone.tensor[..., outside] == 0).all()


def test_channels_are_averaged() -> None:
    word = _noisy_word()
    both = Sound(np.concatenate([word, 0.5 * word]), RATE)
    np.testing.assert_allclose(
        prepare_spectrogram(both, PAPER).tensor,
        prepare_spectrogram(Sound(0.75 * word, RATE), PAPER).tensor,
        atol=1e-3,
    )


@pytest.mark.parametrize("spec", [PAPER, OURS], ids=["published", "mel"])
@pytest.mark.parametrize("length", [1, 2, 100, 40_000])
def test_digital_silence_is_finite_and_even(spec: SpectrogramSpec, length: int) -> None:
    prepared = prepare_spectrogram(Sound(np.zeros((2, length), np.float32), RATE), spec)
    assert np.isfinite(prepared.tensor).all()
    assert float(np.ptp(prepared.tensor)) < 1e-5


@given(
    rate=st.sampled_from([1000, 8000, 11_025, 16_000, 22_050, 48_000, 384_000]),
    length=st.integers(1, 3000),
    channels=st.integers(1, 3),
    loudness=st.sampled_from([1e-38, 1e-6, 1.0, 1e6, 3e38]),
    seed=st.integers(0, 99),
    profile=st.sampled_from(["crema_d", "avdigits"]),
)
@settings(max_examples=80)
def test_every_finite_sound_gives_a_finite_tensor(
    rate: int, length: int, channels: int, loudness: float, seed: int, profile: str
) -> None:
    noise = np.random.default_rng(seed).uniform(-1, 1, (channels, length)) * loudness
    spec = _sound_spec(profile)
    prepared = prepare_spectrogram(Sound(noise.astype(np.float32), rate), spec)
    assert prepared.tensor.shape == (1, 1, *spec.size)
    assert prepared.tensor.dtype == np.float32
    assert np.isfinite(prepared.tensor).all()


@pytest.mark.parametrize("spec", [PAPER, OURS], ids=["published", "mel"])
@pytest.mark.parametrize("rate", [8000, 22_050, 48_000])
def test_extreme_samples_do_not_overflow(spec: SpectrogramSpec, rate: int) -> None:
    signs = np.sign(np.random.default_rng(0).standard_normal((1, 4000)))
    prepared = prepare_spectrogram(Sound((3.4e38 * signs).astype(np.float32), rate), spec)
    assert np.isfinite(prepared.tensor).all()


# --- noise floor ---------------------------------------------------------------------------

FLOOR_RATE = 8000
#: Ours without all that follows the floor, and as long as the sound.
PLAIN = OURS.model_copy(
    update={
        "window_s": None, "clip": None, "top_db": None, "mean": 0.0, "std": 1.0,
        "level": "clip", "resize": "antialias", "size": (64, 200),
    }
)  # fmt: skip
#: Of 3 s, the first is this much louder.
LOUDER = 10.0


def noisy() -> Sound:
    noise = 0.01 * np.random.default_rng(0).standard_normal(3 * FLOOR_RATE)
    noise[:FLOOR_RATE] *= LOUDER
    return Sound(noise[None].astype(np.float32), FLOOR_RATE)


def values(percentile: float | None, share: float = 1.0) -> NDArray[np.float32]:
    spec = PLAIN.model_copy(update={"floor_percentile": percentile, "floor_share": share})
    return prepare_spectrogram(noisy(), spec).tensor[0, 0]


def test_a_low_percentile_is_the_quiet_part_and_a_high_one_the_loud_part() -> None:
    quiet, loud = values(20.0), values(85.0)
    assert float(np.median(quiet - loud)) == pytest.approx(np.log(LOUDER), abs=0.3)
    later = quiet[:, 100:]  # where the noise is its own floor
    assert abs(float(np.median(later))) < 0.6


def test_the_floor_rises_with_its_percentile() -> None:
    medians = [float(np.median(values(percentile))) for percentile in (0, 10, 40, 60, 90, 100)]
    assert medians == sorted(medians, reverse=True)
    assert len(set(medians)) == len(medians)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_floor_share_of_the_floor_is_subtracted(share: float) -> None:
    none, whole = values(None), values(20.0)
    np.testing.assert_allclose(values(20.0, share), none + share * (whole - none), atol=1e-4)


# --- equal to the bit to what checkpoints were trained with ----------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("bands", "columns"), [(1, 1), (4, 5), (64, 271), (257, 90)])
def test_a_moving_average_is_the_mean_of_each_window(
    bands: int, columns: int, order: Literal["C", "F"]
) -> None:
    rng = np.random.default_rng(columns)
    power = np.asarray(rng.standard_normal((bands, columns)) ** 2, np.float32, order=order)
    padded = np.pad(power, ((0, 0), (0, 4)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=1)
    np.testing.assert_array_equal(_moving_average(power, 5), windows.mean(axis=-1))


@given(st.lists(st.floats(-4.0, 4.0, width=32), min_size=1, max_size=40))
def test_one_channel_is_levelled_as_in_float64(values: list[float]) -> None:
    samples = np.asarray(values, np.float32)
    exact = samples.astype(np.float64)
    peak = np.abs(exact).max()
    expected = (exact / peak if peak else exact).astype(np.float32)
    levelled = _to_mono(Sound(samples[None], OURS.sample_rate), OURS)
    np.testing.assert_array_equal(levelled, expected)
