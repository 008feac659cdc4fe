"""Contributions add up, and the axes of maps locate tokens in the source."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.config import Config, StreamConfig
from model.explain.maps import (
    BIAS,
    SpatialMap,
    attention_maps,
    class_activation_map,
    contributions,
    leave_one_out,
)
from model.explain.overlay import overlay
from model.media.reader import Pictures, Sound
from model.network import StreamAttention
from model.preprocess.frames import prepare_frames
from model.preprocess.prepared import Prepared
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import FrameSpec, SpectrogramSpec
from model.preprocess.spectrogram import prepare_spectrogram
from tests.model.networks import lively, noise

LABELS = ("a", "b", "c")
AUDIO = PROFILES["avdigits"]["audio"]
VISUAL = FrameSpec(fit="pad", background="median", resize="area", size=(96, 96), frames="spread")
STREAMS = {
    "audio": StreamConfig(channels=1, size=AUDIO.size),
    "visual": StreamConfig(channels=VISUAL.channels, size=VISUAL.size),
}


def config(**more: object) -> Config:
    small = StreamConfig(channels=1, size=(16, 16))
    streams = {"audio": small, "visual": small, "tactile": small}
    return Config(streams=streams, classes=3, embed_dim=16, heads=4, **more)  # type: ignore[arg-type]


def frame(height: int = 240, width: int = 320) -> Prepared:
    picture = np.full((height, width, 3), 128, np.uint8)
    return prepare_frames(Pictures((picture,), (0.0,)), VISUAL, 4)


def sound(seconds: float = 2.0) -> Prepared:
    assert isinstance(AUDIO, SpectrogramSpec)
    time = np.arange(round(8000 * seconds)) / 8000
    chirp = np.sin(2 * np.pi * (300 + 400 * time) * time) * (np.abs(time - 1) < 0.3)
    return prepare_spectrogram(Sound(chirp[None].astype(np.float32), 8000), AUDIO)


def looked(stream: str, row: int, column: int) -> SpatialMap:
    """A map with all of its mass in one token of a stream."""
    grid = torch.zeros(1, *STREAMS[stream].grid)
    grid[0, row, column] = 1
    prepared = frame() if stream == "visual" else sound()
    spatial = attention_maps(StreamAttention(grid, None), prepared, STREAMS[stream]).spatial
    assert spatial is not None
    return spatial


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_contributions_add_up_to_the_logits(fusion: str) -> None:
    network = lively(config(fusion=fusion))
    with torch.inference_mode():
        output = network(noise(network.config, steps=3, batch=2))
    for sample in range(2):
        shares = contributions(output, ("audio", "visual", "tactile"), LABELS, sample)
        assert set(shares) == {"audio", "visual", "tactile", BIAS}
        for index, label in enumerate(LABELS):
            total = sum(share[label] for share in shares.values())
            assert total == pytest.approx(float(output.logits[sample, index]), abs=1e-5)


def test_a_missing_stream_contributes_nothing() -> None:
    network = lively(config())
    with torch.inference_mode():
        output = network({"audio": noise(network.config, steps=2, batch=1)["audio"]})
    shares = contributions(output, ("audio", "visual", "tactile"), LABELS)
    assert set(shares["visual"].values()) == {0.0}
    assert any(shares["audio"].values())


def test_leave_one_out_is_what_a_stream_changes() -> None:
    network = lively(config())
    streams = noise(network.config, steps=2, batch=2)
    del streams["tactile"]
    with torch.inference_mode():
        output = network(streams)
        without = {
            "audio": network({"visual": streams["visual"]}),
            "visual": network({"audio": streams["audio"]}),
        }
    changes = leave_one_out(output, without, ("audio", "visual", "tactile"), LABELS, sample=1)
    for index, label in enumerate(LABELS):
        for name in ("audio", "visual"):
            expected = float(output.logits[1, index] - without[name].logits[1, index])
            assert changes[name][label] == pytest.approx(expected)
    assert any(changes["audio"].values())
    assert set(changes["tactile"].values()) == {0.0}


def test_a_map_over_a_part_of_the_frame_ends_where_the_part_does() -> None:
    spec = PROFILES["drones"]["visual"]
    assert isinstance(spec, FrameSpec)
    picture = np.full((256, 256, 3), 128, np.uint8)
    prepared = prepare_frames(Pictures((picture,), (0.0,)), spec, 1)
    stream = StreamConfig(channels=spec.channels, size=spec.size)
    everywhere = StreamAttention(torch.full((1, *stream.grid), 1 / 16), None)
    spatial = attention_maps(everywhere, prepared, stream).spatial
    assert spatial is not None
    coloured = colourful(overlay(spatial, prepared)) > 0
    assert coloured[64:192, 64:192].all()
    assert coloured.sum() == 128 * 128


def test_a_class_activation_map_is_drawn_where_it_is_positive() -> None:
    token_logits = torch.full((2, *STREAMS["visual"].grid, 3), -0.5)
    token_logits[1, 2, 4, 1] = 0.25
    activation = class_activation_map(token_logits, 1, frame(), STREAMS["visual"], sample=1)
    assert activation.values[2, 4] == 0.25
    assert activation.values.sum() == pytest.approx(0.25 - 0.5 * 35)
    colour = colourful(overlay(activation, frame()))
    assert np.array_equal(colour > 0, colourful(overlay(looked("visual", 2, 4), frame())) > 0)
    of_another = class_activation_map(token_logits, 0, frame(), STREAMS["visual"], sample=1)
    assert colourful(overlay(of_another, frame())).max() == 0


def test_edges_of_visual_tokens_are_in_pixels_of_the_frame() -> None:
    spatial = looked("visual", 2, 4)
    assert (spatial.rows, spatial.columns) == ("y", "x")
    assert spatial.values.shape == (6, 6)
    # 320 x 240 in a square of 96: 16 cells are 53.3 pixels, and 12 rows are padding above.
    assert spatial.column_edges == pytest.approx(np.arange(7) * 320 / 6)
    assert spatial.row_edges == pytest.approx((np.arange(7) * 16 - 12) * 240 / 72)


def test_edges_of_audio_tokens_are_in_hertz_and_seconds() -> None:
    spatial = looked("audio", 0, 3)
    assert (spatial.rows, spatial.columns) == ("frequency_hz", "time_s")
    assert spatial.values.shape == (4, 12)
    assert (np.diff(spatial.row_edges) > 0).all()
    assert 0 < spatial.row_edges[0] < spatial.row_edges[-1] <= 4000
    assert np.diff(spatial.column_edges) == pytest.approx(16 * 60 / 8000)


def test_the_last_token_ends_where_the_tensor_does() -> None:
    stream = StreamConfig(channels=1, size=(20, 36))
    edges = np.arange(37.0)
    prepared = Prepared(
        np.zeros((1, 1, 20, 36), np.float32), "y", "x", edges[:21], edges,
        lambda: np.zeros((20, 36, 3), np.uint8),
    )  # fmt: skip
    grid = torch.full((1, *stream.grid), 1 / 6)
    spatial = attention_maps(StreamAttention(grid, None), prepared, stream).spatial
    assert spatial is not None
    assert spatial.row_edges.tolist() == [0, 16, 20]
    assert spatial.column_edges.tolist() == [0, 16, 32, 36]


def colourful(png: bytes) -> NDArray[np.float64]:
    """How far each pixel [h, w] of a PNG is from grey."""
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.ptp(picture.astype(float), axis=2)


def test_an_overlay_is_coloured_where_the_map_is_high() -> None:
    colour = colourful(overlay(looked("visual", 2, 4), frame()))
    assert colour.shape == (240, 320)
    # The token's cell: columns 213 to 267, rows 67 to 120.
    assert np.unravel_index(colour.argmax(), colour.shape)[0] in range(67, 120)
    assert colour[67:120, 213:267].mean() > 20 * max(colour[150:, :150].mean(), 0.1)


def test_low_frequencies_are_drawn_at_the_bottom() -> None:
    low, high = (colourful(overlay(looked("audio", row, 4), sound())) for row in (0, 3))
    rows = np.arange(len(low))
    centre = [float((rows * c.sum(1)).sum() / c.sum()) for c in (low, high)]
    assert centre[0] > centre[1] + 100


def darkest(png: bytes) -> NDArray[np.float64]:
    """The brightest of the three colours of each pixel [h, w] of a PNG."""
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture.astype(float).max(axis=2)


def starts(dark: NDArray[np.bool_]) -> list[int]:
    """Where each run of dark pixels begins."""
    return [int(at) for at in np.flatnonzero(dark & ~np.pad(dark, (1, 0))[:-1])]


def test_ticks_of_a_spectrogram_are_at_their_values() -> None:
    """The plot is 360 x 560 pixels, from (12, 64) on; marks are left of it and below it."""
    prepared = sound()
    page = darkest(overlay(looked("audio", 0, 3), prepared))

    def places(values: list[float], edges: NDArray[np.float64]) -> list[float]:
        """How far along the axis, 0 to 1."""
        return [float(np.interp(v, edges, np.linspace(0, 1, len(edges)))) for v in values]

    marks = starts(page[:, 64 - 3] < 60)
    expected = [
        12 + 360 * (1 - at) for at in places([2000, 1000, 500, 250, 100], prepared.row_edges)
    ]
    assert marks == pytest.approx(expected, abs=3)

    marks = starts(page[12 + 360 + 2] < 60)
    edges = prepared.column_edges
    for step in (0.1, 0.2, 0.5, 1.0):
        numbers = [n * step for n in range(-40, 41) if edges[0] < n * step < edges[-1]]
        if len(numbers) == len(marks):
            assert marks == pytest.approx([64 + 560 * at for at in places(numbers, edges)], abs=3)
            return
    raise AssertionError(f"marks at {marks} are at no round numbers of seconds")


def test_an_empty_map_is_a_grey_picture() -> None:
    spatial = looked("visual", 0, 0)
    nothing = SpatialMap(
        np.zeros_like(spatial.values), "y", "x", spatial.row_edges, spatial.column_edges
    )
    assert colourful(overlay(nothing, frame())).max() == 0


@pytest.mark.parametrize("size", [(3000, 4000), (1, 1), (16, 900), (90, 60)])
def test_overlays_have_a_readable_size(size: tuple[int, int]) -> None:
    grid = torch.full((1, 6, 6), 1 / 36)
    prepared = frame(*size)
    spatial = attention_maps(StreamAttention(grid, None), prepared, STREAMS["visual"]).spatial
    assert spatial is not None
    height, width = colourful(overlay(spatial, prepared)).shape
    assert 240 <= max(height, width) <= 640
    assert width / height == pytest.approx(size[1] / size[0], rel=0.1)
