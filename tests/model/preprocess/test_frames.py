"""Frames: as published, with axes in pixels, and normalised against their background."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from safetensors.numpy import load_file

from model.media.reader import Pictures, read_picture
from model.preprocess.frames import _background_distance, normalize_level, prepare_frames
from model.preprocess.prepared import Prepared
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import FrameSpec
from tests.model.media_files import Bytes, quadrants

pytestmark = pytest.mark.filterwarnings("error")


def _frame_spec(profile: str) -> FrameSpec:
    spec = PROFILES[profile]["visual"]
    assert isinstance(spec, FrameSpec)
    return spec


CROP, MEDIAN = _frame_spec("crema_d"), _frame_spec("avdigits").model_copy(update={"size": (96, 96)})
#: The whole frame in its own colours.
PAD = FrameSpec(
    fit="pad", resize="area", size=(96, 96), mean=(0.5,) * 3, std=(0.25,) * 3, frames="spread"
)


def still(picture: Bytes) -> Pictures:
    return Pictures((picture,), (0.0,))


# --- as published --------------------------------------------------------------------------


@pytest.fixture
def golden(shared: Path) -> Path:
    return shared / "golden/preprocessing"


@pytest.mark.parametrize("name", ["img480x360", "img360x480", "img200x150", "img481x361"])
def test_a_picture_is_the_published_one(golden: Path, name: str) -> None:
    theirs = load_file(golden / f"{name}.safetensors")["visual"]
    picture = read_picture((golden / f"{name}.png").read_bytes())
    ours = prepare_frames(still(picture), CROP, 4).tensor
    assert ours.shape == (1, 3, 128, 128)
    in_grey_levels = np.abs(ours[0] - theirs) * np.array(CROP.std)[:, None, None] * 255
    assert in_grey_levels.max() <= 2


# --- axes -----------------------------------------------------------------------------------

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
def test_edges_locate_an_object_in_the_picture(spec: FrameSpec, shape: tuple[int, int]) -> None:
    height, width = shape
    box = (int(0.4 * height), int(0.55 * height), int(0.42 * width), int(0.6 * width))
    prepared = prepare_frames(still(_marked(shape, box)), spec, 1)
    # Padding has the mean's colour, which the test must not take for white.
    inside = np.outer(
        *(_inside(e, n) for e, n in ((prepared.row_edges, height), (prepared.column_edges, width)))
    )
    rows, columns = np.nonzero(_bright(prepared, spec) & inside)
    row, column = np.diff(prepared.row_edges)[0], np.diff(prepared.column_edges)[0]
    assert (prepared.rows, prepared.columns) == ("y", "x")
    assert prepared.row_edges[rows.min()] == pytest.approx(box[0], abs=row)
    assert prepared.row_edges[rows.max() + 1] == pytest.approx(box[1], abs=row)
    assert prepared.column_edges[columns.min()] == pytest.approx(box[2], abs=column)
    assert prepared.column_edges[columns.max() + 1] == pytest.approx(box[3], abs=column)


def _inside(edges: NDArray[np.float64], length: int) -> NDArray[np.bool_]:
    """Which cells lie in the picture."""
    return np.asarray((edges[:-1] > -1e-6) & (edges[1:] < length + 1e-6))


@pytest.mark.parametrize("shape", SHAPES)
def test_exactly_the_padding_is_zero_and_outside_the_picture(
    shape: tuple[int, int],
) -> None:
    prepared = prepare_frames(still(np.full((*shape, 3), 250, np.uint8)), PAD, 1)
    inside = np.outer(
        _inside(prepared.row_edges, shape[0]), _inside(prepared.column_edges, shape[1])
    )
    assert (prepared.tensor[0][:, ~inside] == 0).all()
    assert (prepared.tensor[0][:, inside] > 1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_fit_pad_keeps_the_whole_frame(shape: tuple[int, int]) -> None:
    prepared = prepare_frames(still(quadrants(*shape)), PAD, 1)
    for edges, length in ((prepared.row_edges, shape[0]), (prepared.column_edges, shape[1])):
        assert np.abs(edges).min() < 1e-6  # the frame begins and ends at edges of cells
        assert np.abs(edges - length).min() < 1e-6
    rows = np.flatnonzero(_inside(prepared.row_edges, shape[0]))
    columns = np.flatnonzero(_inside(prepared.column_edges, shape[1]))
    colours = prepared.tensor[0].transpose(1, 2, 0) * PAD.std + PAD.mean
    corners = {
        (rows[0], columns[0]): (1, 0, 0),
        (rows[0], columns[-1]): (0, 1, 0),
        (rows[-1], columns[0]): (0, 0, 1),
        (rows[-1], columns[-1]): (1, 1, 1),
    }
    for (row, column), colour in corners.items():
        np.testing.assert_allclose(colours[row, column], colour, atol=0.02)


@pytest.mark.parametrize(("shape", "cells"), [((480, 640), (72, 96)), ((640, 480), (96, 72))])
def test_fit_pad_keeps_the_aspect_ratio_and_centres(
    shape: tuple[int, int], cells: tuple[int, int]
) -> None:
    prepared = prepare_frames(still(quadrants(*shape)), PAD, 1)
    for edges, length, inside_cells in zip(
        (prepared.row_edges, prepared.column_edges), shape, cells, strict=True
    ):
        inside = np.flatnonzero(_inside(edges, length))
        assert len(inside) == inside_cells
        assert inside[0] == 95 - inside[-1]


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (200, 150)])
def test_a_crop_is_the_centre_and_half_of_the_shorter_side(shape: tuple[int, int]) -> None:
    prepared = prepare_frames(still(quadrants(*shape)), CROP, 1)
    for edges, length in ((prepared.row_edges, shape[0]), (prepared.column_edges, shape[1])):
        assert edges.shape == (129,)
        assert edges[-1] - edges[0] == pytest.approx(min(shape) / 2, rel=0.01)
        assert (edges[0] + edges[-1]) / 2 == pytest.approx(length / 2, abs=length / 200)


def test_values_are_normalised_by_mean_and_deviation() -> None:
    picture = np.full((300, 300, 3), (51, 102, 204), np.uint8)
    for spec in (CROP, PAD):
        expected = (np.array([0.2, 0.4, 0.8]) - spec.mean) / spec.std
        tensor = prepare_frames(still(picture), spec, 1).tensor
        np.testing.assert_allclose(tensor[0, :, 40, 40], expected, atol=1e-5)


def test_the_canvas_is_the_middle_selected_picture() -> None:
    sequence = [np.full((20, 30, 3), value, np.uint8) for value in range(8)]
    prepared = prepare_frames(Pictures(tuple(sequence), tuple(map(float, range(8)))), PAD, 4)
    assert np.array_equal(prepared.canvas(), sequence[5])


# --- selection ------------------------------------------------------------------------------


def _selected(count: int, spec: FrameSpec, steps: int) -> list[int]:
    """Numbers of the pictures in the tensor, of `count` ones in rising grey."""
    sequence = tuple(np.full((100, 100, 3), 3 * number, np.uint8) for number in range(count))
    tensor = prepare_frames(Pictures(sequence, tuple(map(float, range(count)))), spec, steps).tensor
    grey = (tensor[:, 0, 48, 48] * spec.std[0] + spec.mean[0]) * 255
    return [round(float(value) / 3) for value in grey]


@pytest.mark.parametrize(
    ("count", "steps", "selected"),
    [
        (4, 4, [0, 1, 2, 3]),
        (8, 4, [1, 3, 5, 7]),
        (3, 4, [0, 1, 1, 2]),
        (2, 4, [0, 0, 1, 1]),
        (64, 1, [32]),
        (5, 2, [1, 3]),
    ],
)
def test_spread_selects_a_picture_for_each_step(
    count: int, steps: int, selected: list[int]
) -> None:
    assert _selected(count, PAD, steps) == selected


def test_one_picture_is_used_for_all_steps() -> None:
    assert _selected(1, PAD, 16) == [0]


def test_middle_selects_one_picture_for_any_number_of_steps() -> None:
    assert _selected(7, CROP, 4) == [3]
    assert _selected(1, CROP, 4) == [0]


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    steps=st.integers(1, 8),
    count=st.integers(1, 5),
    profile=st.sampled_from(["crema_d", "avdigits"]),
)
@settings(max_examples=60)
def test_pictures_of_any_size_give_a_finite_tensor(
    height: int, width: int, steps: int, count: int, profile: str
) -> None:
    spec = _frame_spec(profile)
    sequence = tuple(quadrants(height, width) for _ in range(count))
    prepared = prepare_frames(Pictures(sequence, tuple(map(float, range(count)))), spec, steps)
    one = spec.frames == "middle" or count == 1 or steps == 1
    assert prepared.tensor.shape == (1 if one else steps, spec.channels, *spec.size)
    assert np.isfinite(prepared.tensor).all()
    assert len(prepared.row_edges) == spec.size[0] + 1
    assert (np.diff(prepared.row_edges) > 0).all()
    assert (np.diff(prepared.column_edges) > 0).all()


def test_shrinking_does_not_alias() -> None:
    board = (np.indices((768, 768)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for spec in (CROP, PAD):
        values = prepare_frames(still(cv2.merge([board] * 3)), spec, 1).tensor[0, 0]
        grey = (values * spec.std[0] + spec.mean[0]) * 255
        assert np.abs(grey - 127.5).max() < 3


def drawing(foreground: tuple[int, int, int], background: tuple[int, int, int]) -> Pictures:
    """A bar on a plain background, with a camera's noise."""
    page = np.full((240, 320, 3), background, np.float32)
    page[80:160, 200:215] = foreground
    page += np.random.default_rng(0).normal(0, 2, page.shape)
    return still(np.clip(page, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("foreground", "background"),
    [
        ((255, 255, 255), (20, 20, 20)),
        ((10, 10, 10), (240, 240, 230)),
        ((200, 30, 30), (60, 60, 60)),
        ((140, 140, 150), (90, 90, 90)),
    ],
)
def test_background_median_is_independent_of_colours(
    foreground: tuple[int, int, int], background: tuple[int, int, int]
) -> None:
    prepared = prepare_frames(drawing(foreground, background), MEDIAN, 4).tensor
    assert prepared.shape == (1, 1, 96, 96)
    plane = prepared[0, 0]
    assert plane[38:58, 61:64].min() > 0.9  # 240 x 320 fitted into 96: a tenth of three, padded
    assert plane[:, :55].max() < 0.2
    assert prepared.min() >= 0
    assert prepared.max() <= 1


def test_padding_has_the_value_of_the_background() -> None:
    plane = prepare_frames(drawing((255, 255, 255), (20, 20, 20)), MEDIAN, 1).tensor[0, 0]
    assert not plane[:12].any()
    assert not plane[84:].any()


@pytest.mark.parametrize("value", [0, 90, 255])
def test_noise_on_an_empty_page_is_not_scaled_up(value: int) -> None:
    page = np.full((60, 80, 3), value, np.int16)
    page += np.random.default_rng(0).integers(-2, 3, page.shape, np.int16)
    prepared = prepare_frames(still(np.clip(page, 0, 255).astype(np.uint8)), MEDIAN, 1).tensor
    assert prepared.max() < 0.35


def test_a_speck_does_not_set_the_level() -> None:
    faint = drawing((140, 140, 140), (90, 90, 90))
    faint.frames[0][10:14, 10:14] = 255
    assert prepare_frames(faint, MEDIAN, 1).tensor[0, 0, 38:58, 61:64].min() > 0.9


def test_background_median_refuses_mean_and_std() -> None:
    fields = MEDIAN.model_dump() | {"mean": (0.5, 0.5, 0.5)}
    with pytest.raises(ValueError, match="omit mean and std"):
        FrameSpec.model_validate(fields)


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=20).map(lambda s: (*s, 3))))
@settings(max_examples=200)
def test_background_median_is_the_rank_of_sorted_values(picture: NDArray[np.uint8]) -> None:
    """Histograms give what sorting gives, to the bit."""
    pixels = np.sort(picture.reshape(-1, 3), axis=0).astype(np.float32)
    distance = np.abs(picture - pixels[len(pixels) // 2]).max(axis=2)
    level = np.sort(distance.ravel())[distance.size - 1 - int(0.003 * distance.size)]
    expected = np.minimum(distance / np.float32(max(level, 12)), 1)
    assert np.array_equal(normalize_level(_background_distance(cv2.split(picture))), expected)
    assert np.array_equal(normalize_level(distance), expected), "as training has it"


def test_a_crop_is_normalised_by_its_own_background() -> None:
    spec = FrameSpec(
        fit="crop", resize_shorter=96, background="median", size=(48, 48), frames="spread"
    )
    picture = drawing((140, 140, 140), (90, 90, 90))
    picture.frames[0][:, :40] = 255  # outside the crop
    tensor = prepare_frames(picture, spec, 1).tensor
    assert tensor.shape == (1, 1, 48, 48)
    bar = tensor[0, 0] > 0.8
    assert bar[14:34, 40:44].mean() > 0.8
    assert not bar[:, :36].any()


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40).map(lambda s: (*s, 3))))
@settings(max_examples=60)
def test_tables_give_the_normalised_values(picture: NDArray[np.uint8]) -> None:
    """A table for each channel gives what the product and the sum give, to the bit."""
    spec = CROP.model_copy(update={"fit": "pad", "resize_shorter": None, "size": (40, 40)})
    spec = spec.model_copy(update={"resize": "area"})
    tensor = prepare_frames(still(np.resize(picture, (40, 40, 3))), spec, 1).tensor[0]
    std = np.asarray(spec.std, np.float64)
    factor, shift = (1 / (255 * std)).astype(np.float32), np.asarray(spec.mean) / std
    expected = np.resize(picture, (40, 40, 3)) * factor - shift.astype(np.float32)
    assert np.array_equal(tensor, expected.transpose(2, 0, 1))
