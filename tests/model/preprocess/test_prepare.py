"""Arrays to tensors: as published, and with axes that say where each cell lies."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from model.media.audio.resample import resample_sinc
from model.media.reader import Pictures, Sound, read_picture, read_sound
from model.preprocess.frames import prepare_frames
from model.preprocess.prepared import Prepared
from model.preprocess.specs import PROFILES, FrameSpec, SpectrogramSpec
from model.preprocess.spectrogram import prepare_spectrogram
from tests.model.made import Bytes, Floats, quadrants, tone

pytestmark = pytest.mark.filterwarnings("error")


def _sound_spec(profile: str) -> SpectrogramSpec:
    spec = PROFILES[profile]["audio"]
    assert isinstance(spec, SpectrogramSpec)
    return spec


def _frame_spec(profile: str) -> FrameSpec:
    spec = PROFILES[profile]["visual"]
    assert isinstance(spec, FrameSpec)
    return spec


PAPER, OURS = _sound_spec("crema_d"), _sound_spec("avdigits")
CROP, INK = _frame_spec("crema_d"), _frame_spec("avdigits").model_copy(update={"size": (96, 96)})
#: The whole frame in its own colours.
PAD = FrameSpec(
    fit="pad", resize="area", size=(96, 96), mean=(0.5,) * 3, std=(0.25,) * 3, frames="spread"
)
#: Ours without its ceiling, which a loud tone reaches in several rows at once, and deep enough for
#: the room to be heard beside the tone: where it is not, a tone without end is its own noise floor.
UNCLIPPED = OURS.model_copy(update={"clip": None, "top_db": 60.0})
RATE = 16_000


def still(picture: Bytes) -> Pictures:
    return Pictures((picture,), (0.0,))


def burst(pitch: float, begin: float, end: float, seconds: float = 2.0) -> Sound:
    """A tone from `begin` to `end` in a quiet room, all in seconds."""
    time = np.arange(round(seconds * RATE)) / RATE
    said = (time >= begin) & (time < end)
    room = 0.003 * np.random.default_rng(0).standard_normal(len(time))
    samples = 0.5 * said * np.sin(2 * np.pi * pitch * time) + room
    return Sound(samples.astype(np.float32)[None], RATE)


def loudest(prepared: Prepared) -> tuple[int, int]:
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
def test_a_spectrogram_of_another_rate_is_as_good_as_the_published_one(
    golden: Path, name: str
) -> None:
    theirs = load_file(golden / f"{name}.safetensors")
    sound = read_sound((golden / f"{name}.wav").read_bytes())
    resampled = resample_sinc(sound.samples[0], sound.sample_rate, 22_050)
    np.testing.assert_allclose(resampled, theirs["resampled"][0], atol=2e-5, rtol=0)
    errors = np.abs(prepare_spectrogram(sound, PAPER).tensor[0] - theirs["audio"])
    assert errors.mean() < 0.005
    assert errors.max() < 0.5


@pytest.mark.parametrize("name", ["img480x360", "img360x480", "img200x150", "img481x361"])
def test_a_picture_is_the_published_one(golden: Path, name: str) -> None:
    theirs = load_file(golden / f"{name}.safetensors")["visual"]
    picture = read_picture((golden / f"{name}.png").read_bytes())
    ours = prepare_frames(still(picture), CROP, 4).tensor
    assert ours.shape == (1, 3, 128, 128)
    in_grey_levels = np.abs(ours[0] - theirs) * np.array(CROP.std)[:, None, None] * 255
    assert in_grey_levels.max() <= 2


# --- sounds: axes --------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [PAPER, UNCLIPPED], ids=["published", "mel"])
@pytest.mark.parametrize("pitch", [300.0, 1000.0, 3000.0])
def test_a_tone_is_brightest_in_the_row_that_its_edges_say(
    spec: SpectrogramSpec, pitch: float
) -> None:
    found = prepare_spectrogram(burst(pitch, 0.8, 1.2), spec)
    row, _ = loudest(found)
    assert found.rows == "frequency_hz"
    slack = max(spec.sample_rate / spec.n_fft, np.diff(found.row_edges)[row]) / 2
    assert found.row_edges[row] - slack <= pitch <= found.row_edges[row + 1] + slack


@pytest.mark.parametrize("spec", [PAPER, OURS], ids=["published", "mel"])
@pytest.mark.parametrize("begin", [0.1, 0.7, 1.5])
def test_a_tone_is_bright_in_the_columns_that_its_time_says(
    spec: SpectrogramSpec, begin: float
) -> None:
    found = prepare_spectrogram(burst(1000, begin, begin + 0.3), spec)
    row, _ = loudest(found)
    values = found.tensor[0, 0, row]
    bright = np.flatnonzero(values > (values.max() + values.min()) / 2)
    assert found.columns == "time_s"
    reach = spec.n_fft / spec.sample_rate / 2 + np.diff(found.column_edges)[0]
    assert found.column_edges[bright[0]] == pytest.approx(begin, abs=reach)
    assert found.column_edges[bright[-1] + 1] == pytest.approx(begin + 0.3, abs=reach)


@pytest.mark.parametrize("spec", [PAPER, OURS], ids=["published", "mel"])
def test_the_axes_of_a_sound_have_one_edge_more_than_cells_and_rise(spec: SpectrogramSpec) -> None:
    found = prepare_spectrogram(burst(1000, 0.2, 0.5), spec)
    height, width = spec.size
    assert found.tensor.shape == (1, 1, height, width)
    assert found.row_edges.shape == (height + 1,)
    assert found.column_edges.shape == (width + 1,)
    assert (np.diff(found.row_edges) > 0).all()
    assert (np.diff(found.column_edges) > 0).all()
    assert found.row_edges[0] >= spec.fmin
    assert found.row_edges[-1] <= spec.max_frequency


def test_a_published_spectrogram_spans_the_whole_sound() -> None:
    found = prepare_spectrogram(burst(1000, 0.2, 0.5, seconds=3), PAPER)
    column = PAPER.hop_length / PAPER.sample_rate
    assert found.column_edges[0] == pytest.approx(-column / 2)
    assert found.column_edges[-1] == pytest.approx(3, abs=column)
    assert found.row_edges[0] == 0
    assert found.row_edges[-1] == PAPER.sample_rate / 2


def test_a_window_of_a_sound_spans_its_seconds_and_may_begin_before_it() -> None:
    assert OURS.window_s is not None
    short = prepare_spectrogram(burst(1000, 0.1, 0.3, seconds=0.4), OURS)
    assert short.column_edges[-1] - short.column_edges[0] == pytest.approx(OURS.window_s, abs=0.01)
    assert short.column_edges[0] < -0.2
    assert short.column_edges[-1] > 0.6


def test_the_word_is_in_the_middle_of_the_window() -> None:
    for begin in (0.0, 1.0, 4.5):
        found = prepare_spectrogram(burst(800, begin, begin + 0.4, seconds=5), OURS)
        middle = found.column_edges[[0, -1]].mean()
        assert middle == pytest.approx(begin + 0.2, abs=0.05)


def test_the_canvas_of_a_sound_is_its_tensor_in_colours() -> None:
    found = prepare_spectrogram(burst(1000, 0.8, 1.2), OURS)
    assert found.canvas.shape == (*OURS.size, 3)
    assert found.canvas.dtype == np.uint8
    values, brightness = found.tensor[0, 0], found.canvas.astype(int).sum(axis=2)
    assert brightness[values == values.max()].min() > brightness[values == 0].max()


# --- sounds: values ------------------------------------------------------------------------


def _noisy_word(seconds: float = 1.0) -> Floats:
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * RATE)) / RATE
    word = np.sin(2 * np.pi * 700 * time) * np.exp(-(((time - seconds / 2) / 0.1) ** 2))
    return (0.4 * word + 0.004 * rng.standard_normal(len(time))).astype(np.float32)[None]


@pytest.mark.parametrize("gain", [1e-4, 0.1, 2.0, 1e4])
def test_gain_does_not_matter_where_the_peak_is_levelled(gain: float) -> None:
    word = _noisy_word()
    quiet = prepare_spectrogram(Sound(word, RATE), OURS)
    loud = prepare_spectrogram(Sound(word * np.float32(gain), RATE), OURS)
    np.testing.assert_allclose(loud.tensor, quiet.tensor, atol=2e-3)
    np.testing.assert_array_equal(loud.column_edges, quiet.column_edges)


def test_gain_matters_as_published_where_it_is_clipped() -> None:
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


def test_silence_around_a_word_moves_it_and_adds_nothing() -> None:
    word = _noisy_word()
    alone = prepare_spectrogram(Sound(word, RATE), OURS)
    padded = np.pad(word, ((0, 0), (RATE, RATE // 2)))
    around = prepare_spectrogram(Sound(padded, RATE), OURS)
    assert around.column_edges[0] - alone.column_edges[0] == pytest.approx(1, abs=0.02)
    assert np.abs(around.tensor - alone.tensor).mean() < 0.02
    outside = (alone.column_edges[1:] < -0.02) | (alone.column_edges[:-1] > 1.02)
    assert outside.sum() > 20
    assert (alone.tensor[..., outside] == 0).all()


def test_channels_are_mixed_to_their_mean() -> None:
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
    found = prepare_spectrogram(Sound(np.zeros((2, length), np.float32), RATE), spec)
    assert np.isfinite(found.tensor).all()
    assert float(np.ptp(found.tensor)) < 1e-5


@given(
    rate=st.sampled_from([1000, 8000, 11_025, 16_000, 22_050, 48_000, 384_000]),
    length=st.integers(1, 3000),
    channels=st.integers(1, 3),
    loudness=st.sampled_from([1e-38, 1e-6, 1.0, 1e6, 3e38]),
    seed=st.integers(0, 99),
    profile=st.sampled_from(["crema_d", "avdigits"]),
)
@settings(max_examples=80, deadline=None)
def test_every_finite_sound_gives_a_finite_tensor(
    rate: int, length: int, channels: int, loudness: float, seed: int, profile: str
) -> None:
    noise = np.random.default_rng(seed).uniform(-1, 1, (channels, length)) * loudness
    spec = _sound_spec(profile)
    found = prepare_spectrogram(Sound(noise.astype(np.float32), rate), spec)
    assert found.tensor.shape == (1, 1, *spec.size)
    assert found.tensor.dtype == np.float32
    assert np.isfinite(found.tensor).all()


@pytest.mark.parametrize("spec", [PAPER, OURS], ids=["published", "mel"])
@pytest.mark.parametrize("rate", [8000, 22_050, 48_000])
def test_absurdly_loud_samples_overflow_nothing(spec: SpectrogramSpec, rate: int) -> None:
    signs = np.sign(np.random.default_rng(0).standard_normal((1, 4000)))
    found = prepare_spectrogram(Sound((3.4e38 * signs).astype(np.float32), rate), spec)
    assert np.isfinite(found.tensor).all()


# --- pictures: axes ------------------------------------------------------------------------

SHAPES = [(480, 640), (640, 480), (96, 96), (33, 200), (300, 41), (10, 7)]


def _marked(shape: tuple[int, int], box: tuple[int, int, int, int]) -> Bytes:
    """A black picture with a white box (top, bottom, left, right)."""
    picture = np.zeros((*shape, 3), np.uint8)
    top, bottom, left, right = box
    picture[top:bottom, left:right] = 255
    return picture


def _bright(prepared: Prepared, spec: FrameSpec) -> NDArray[np.bool_]:
    """Cells [H, W] of the first channel that are more white than black."""
    return prepared.tensor[0, 0] * spec.std[0] + spec.mean[0] > 0.5


@pytest.mark.parametrize("spec", [CROP, PAD], ids=["crop", "pad"])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_what_lies_in_a_picture_is_found_where_the_edges_say(
    spec: FrameSpec, shape: tuple[int, int]
) -> None:
    height, width = shape
    box = (int(0.4 * height), int(0.55 * height), int(0.42 * width), int(0.6 * width))
    found = prepare_frames(still(_marked(shape, box)), spec, 1)
    # Padding has the mean's colour, which the test must not take for white.
    inside = np.outer(
        *(_inside(e, n) for e, n in ((found.row_edges, height), (found.column_edges, width)))
    )
    rows, columns = np.nonzero(_bright(found, spec) & inside)
    row, column = np.diff(found.row_edges)[0], np.diff(found.column_edges)[0]
    assert (found.rows, found.columns) == ("y", "x")
    assert found.row_edges[rows.min()] == pytest.approx(box[0], abs=row)
    assert found.row_edges[rows.max() + 1] == pytest.approx(box[1], abs=row)
    assert found.column_edges[columns.min()] == pytest.approx(box[2], abs=column)
    assert found.column_edges[columns.max() + 1] == pytest.approx(box[3], abs=column)


def _inside(edges: NDArray[np.float64], length: int) -> NDArray[np.bool_]:
    """Which cells lie in the picture."""
    return np.asarray((edges[:-1] > -1e-6) & (edges[1:] < length + 1e-6))


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_is_outside_the_picture_and_zero_and_nothing_else_is(
    shape: tuple[int, int],
) -> None:
    found = prepare_frames(still(np.full((*shape, 3), 250, np.uint8)), PAD, 1)
    inside = np.outer(_inside(found.row_edges, shape[0]), _inside(found.column_edges, shape[1]))
    assert (found.tensor[0][:, ~inside] == 0).all()
    assert (found.tensor[0][:, inside] > 1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_frame_is_kept_where_it_is_padded(shape: tuple[int, int]) -> None:
    found = prepare_frames(still(quadrants(*shape)), PAD, 1)
    for edges, length in ((found.row_edges, shape[0]), (found.column_edges, shape[1])):
        assert np.abs(edges).min() < 1e-6  # the frame begins and ends at edges of cells
        assert np.abs(edges - length).min() < 1e-6
    rows = np.flatnonzero(_inside(found.row_edges, shape[0]))
    columns = np.flatnonzero(_inside(found.column_edges, shape[1]))
    colours = found.tensor[0].transpose(1, 2, 0) * PAD.std + PAD.mean
    corners = {
        (rows[0], columns[0]): (1, 0, 0),
        (rows[0], columns[-1]): (0, 1, 0),
        (rows[-1], columns[0]): (0, 0, 1),
        (rows[-1], columns[-1]): (1, 1, 1),
    }
    for (row, column), colour in corners.items():
        np.testing.assert_allclose(colours[row, column], colour, atol=0.02)


@pytest.mark.parametrize(("shape", "cells"), [((480, 640), (72, 96)), ((640, 480), (96, 72))])
def test_landscape_and_portrait_keep_their_shape_and_are_centred(
    shape: tuple[int, int], cells: tuple[int, int]
) -> None:
    found = prepare_frames(still(quadrants(*shape)), PAD, 1)
    for edges, length, kept in zip(
        (found.row_edges, found.column_edges), shape, cells, strict=True
    ):
        inside = np.flatnonzero(_inside(edges, length))
        assert len(inside) == kept
        assert inside[0] == 95 - inside[-1]


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (200, 150)])
def test_a_crop_is_the_centre_and_half_of_the_shorter_side(shape: tuple[int, int]) -> None:
    found = prepare_frames(still(quadrants(*shape)), CROP, 1)
    for edges, length in ((found.row_edges, shape[0]), (found.column_edges, shape[1])):
        assert edges.shape == (129,)
        assert edges[-1] - edges[0] == pytest.approx(min(shape) / 2, rel=0.01)
        assert (edges[0] + edges[-1]) / 2 == pytest.approx(length / 2, abs=length / 200)


def test_values_are_normalised_by_mean_and_deviation() -> None:
    picture = np.full((300, 300, 3), (51, 102, 204), np.uint8)
    for spec in (CROP, PAD):
        expected = (np.array([0.2, 0.4, 0.8]) - spec.mean) / spec.std
        tensor = prepare_frames(still(picture), spec, 1).tensor
        np.testing.assert_allclose(tensor[0, :, 40, 40], expected, atol=1e-5)


def test_the_canvas_of_pictures_is_the_middle_one_taken() -> None:
    sequence = [np.full((20, 30, 3), value, np.uint8) for value in range(8)]
    found = prepare_frames(Pictures(tuple(sequence), tuple(map(float, range(8)))), PAD, 4)
    assert np.array_equal(found.canvas, sequence[5])


# --- pictures: which -----------------------------------------------------------------------


def _taken(count: int, spec: FrameSpec, steps: int) -> list[int]:
    """Numbers of the pictures in the tensor, of `count` ones in rising grey."""
    sequence = tuple(np.full((100, 100, 3), 3 * number, np.uint8) for number in range(count))
    tensor = prepare_frames(Pictures(sequence, tuple(map(float, range(count)))), spec, steps).tensor
    grey = (tensor[:, 0, 48, 48] * spec.std[0] + spec.mean[0]) * 255
    return [round(float(value) / 3) for value in grey]


@pytest.mark.parametrize(
    ("count", "steps", "taken"),
    [
        (4, 4, [0, 1, 2, 3]),
        (8, 4, [1, 3, 5, 7]),
        (3, 4, [0, 1, 1, 2]),
        (2, 4, [0, 0, 1, 1]),
        (64, 1, [32]),
        (5, 2, [1, 3]),
    ],
)
def test_spread_takes_a_picture_for_each_step(count: int, steps: int, taken: list[int]) -> None:
    assert _taken(count, PAD, steps) == taken


def test_one_picture_stands_for_all_steps() -> None:
    assert _taken(1, PAD, 16) == [0]


def test_middle_takes_one_whatever_the_steps() -> None:
    assert _taken(7, CROP, 4) == [3]
    assert _taken(1, CROP, 4) == [0]


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    steps=st.integers(1, 8),
    count=st.integers(1, 5),
    profile=st.sampled_from(["crema_d", "avdigits"]),
)
@settings(max_examples=60, deadline=None)
def test_pictures_of_any_size_give_a_finite_tensor(
    height: int, width: int, steps: int, count: int, profile: str
) -> None:
    spec = _frame_spec(profile)
    sequence = tuple(quadrants(height, width) for _ in range(count))
    found = prepare_frames(Pictures(sequence, tuple(map(float, range(count)))), spec, steps)
    one = spec.frames == "middle" or count == 1 or steps == 1
    assert found.tensor.shape == (1 if one else steps, spec.channels, *spec.size)
    assert np.isfinite(found.tensor).all()
    assert len(found.row_edges) == spec.size[0] + 1
    assert (np.diff(found.row_edges) > 0).all()
    assert (np.diff(found.column_edges) > 0).all()


def test_shrinking_averages_and_makes_no_pattern_of_its_own() -> None:
    board = (np.indices((768, 768)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for spec in (CROP, PAD):
        values = prepare_frames(still(cv2.merge([board] * 3)), spec, 1).tensor[0, 0]
        grey = (values * spec.std[0] + spec.mean[0]) * 255
        assert np.abs(grey - 127.5).max() < 3


def written(ink: tuple[int, int, int], paper: tuple[int, int, int]) -> Pictures:
    """A bar of ink on paper, with a little noise as a camera's."""
    page = np.full((240, 320, 3), paper, np.float32)
    page[80:160, 200:215] = ink
    page += np.random.default_rng(0).normal(0, 2, page.shape)
    return still(np.clip(page, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ((255, 255, 255), (20, 20, 20)),
        ((10, 10, 10), (240, 240, 230)),
        ((200, 30, 30), (60, 60, 60)),
        ((140, 140, 150), (90, 90, 90)),
    ],
)
def test_ink_looks_alike_whatever_its_colour_and_the_paper_s(
    ink: tuple[int, int, int], paper: tuple[int, int, int]
) -> None:
    found = prepare_frames(written(ink, paper), INK, 4).tensor
    assert found.shape == (1, 1, 96, 96)
    plane = found[0, 0]
    assert plane[38:58, 61:64].min() > 0.9  # 240 x 320 fitted into 96: a tenth of three, padded
    assert plane[:, :55].max() < 0.2
    assert found.min() >= 0
    assert found.max() <= 1


def test_padding_is_paper() -> None:
    plane = prepare_frames(written((255, 255, 255), (20, 20, 20)), INK, 1).tensor[0, 0]
    assert not plane[:12].any()
    assert not plane[84:].any()


@pytest.mark.parametrize("value", [0, 90, 255])
def test_an_empty_page_is_not_brought_up_to_ink(value: int) -> None:
    page = np.full((60, 80, 3), value, np.int16)
    page += np.random.default_rng(0).integers(-2, 3, page.shape, np.int16)
    found = prepare_frames(still(np.clip(page, 0, 255).astype(np.uint8)), INK, 1).tensor
    assert found.max() < 0.35


def test_a_speck_does_not_set_the_level_of_the_ink() -> None:
    faint = written((140, 140, 140), (90, 90, 90))
    faint.frames[0][10:14, 10:14] = 255
    assert prepare_frames(faint, INK, 1).tensor[0, 0, 38:58, 61:64].min() > 0.9


def test_a_spec_of_ink_has_a_level_of_its_own() -> None:
    given = INK.model_dump() | {"mean": (0.5, 0.5, 0.5)}
    with pytest.raises(ValueError, match="omit mean and std"):
        FrameSpec.model_validate(given)
