"""Examples of no class are mixed into a task's, and pull their answers apart to equal shares."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from model.network import Output
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import ChannelEventSpec, EventFrameSpec
from model.training.batches import collate
from model.training.options import TrainOptions
from model.training.out_of_distribution.outlier_events import (
    draw_camera_events,
    draw_channel_events,
)
from model.training.out_of_distribution.outlier_exposure import (
    NO_CLASS,
    OutlierExposure,
    draw_outlier_picture,
    draw_outlier_sound,
)
from model.training.task import BatchPlan
from model.training.train import compute_loss
from tests.model.training.noise_task import Noise

SPECS = PROFILES["avdigits"]
PLAN = BatchPlan(("audio", "visual"), steps=2)


class Ones:
    """Examples of class 1 whose values are all 1."""

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, NDArray[np.float32]], int]:
        shapes = {"audio": (1, 1, 64, 192), "visual": (plan.steps, 1, 96, 128)}
        return {name: np.ones(shapes[name], np.float32) for name in plan.streams}, 1


def mixed(share: float, words: tuple[NDArray[np.float32], ...] = ()) -> OutlierExposure:
    return OutlierExposure(Ones(), dict(SPECS), share, 0, words)


def test_the_share_is_of_no_class_and_the_index_alone_decides() -> None:
    examples = mixed(0.25)
    labels = [examples.example(index, PLAN)[1] for index in range(200)]
    assert 30 <= labels.count(NO_CLASS) <= 70
    assert labels.count(1) == 200 - labels.count(NO_CLASS)
    index = labels.index(NO_CLASS)
    first, again = examples.example(index, PLAN)[0], mixed(0.25).example(index, PLAN)[0]
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_a_batch_holds_stills_for_all_steps_of_moving_examples() -> None:
    inputs, labels = collate(mixed(0.5), range(12), PLAN, "direct")
    assert inputs["audio"].shape == (1, 12, 1, 64, 192)
    assert inputs["visual"].shape == (2, 12, 1, 96, 128)
    assert set(labels.tolist()) == {1, NO_CLASS}
    stills = inputs["visual"][:, labels == NO_CLASS]
    assert torch.equal(stills[0], stills[1])


def test_sounds_and_pictures_are_finite_and_differ() -> None:
    word = np.sin(np.arange(3000, dtype=np.float32))
    rng = np.random.default_rng(1)
    sounds = [draw_outlier_sound((word,), rng) for _ in range(40)]
    assert all(np.isfinite(each.samples).all() for each in sounds)
    assert all(np.abs(each.samples).max() <= 1 for each in sounds)
    pictures = [draw_outlier_picture(rng) for _ in range(40)]
    assert all(picture.dtype == np.uint8 and picture.ndim == 3 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 40


def test_events_of_no_class_lie_on_the_sensor_and_in_the_channels() -> None:
    specs = PROFILES["ndigits-events"]
    camera_spec, cochlea_spec = specs["visual"], specs["audio"]
    assert isinstance(camera_spec, EventFrameSpec)
    assert isinstance(cochlea_spec, ChannelEventSpec)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        camera = draw_camera_events(camera_spec, rng)
        height, width = camera.sensor or (0, 0)
        assert 0 <= camera.y.min() <= camera.y.max() < height
        assert 0 <= camera.x.min() <= camera.x.max() < width
        assert (np.diff(camera.time_us) >= 0).all()
        cochlea = draw_channel_events(cochlea_spec, partial(draw_outlier_sound, (), rng), rng)
        assert 0 <= cochlea.channel.min() <= cochlea.channel.max() < cochlea_spec.bands
    examples = OutlierExposure(Ones(), dict(specs), 1.0, 0)
    drawn = [examples.example(index, BatchPlan(("audio", "visual"), 4)) for index in range(20)]
    shapes = {name: (4, spec.channels, *spec.size) for name, spec in specs.items()}
    for streams, label in drawn:
        assert label == NO_CLASS
        assert {name: each.shape for name, each in streams.items()} == shapes
    assert len({streams["visual"].tobytes() for streams, _ in drawn}) == 20


def test_the_loss_of_no_class_is_least_where_all_classes_are_equally_likely() -> None:
    options = TrainOptions.of(Noise(), data=Path("none"), label_smoothing=0.0)
    classes = len(options.task.labels)

    def loss(logits: torch.Tensor, *labels: int) -> float:
        output = Output(logits=logits, bias=torch.zeros(classes))
        return compute_loss(output, torch.tensor(labels), options)[0].item()

    equal, sure = torch.zeros(1, classes), 5 * torch.eye(classes)[:1]
    assert loss(equal, NO_CLASS) == pytest.approx(np.log(classes))
    assert loss(sure, NO_CLASS) > loss(equal, NO_CLASS)
    both = torch.cat([sure, sure])
    known = cross_entropy(sure, torch.tensor([0])).item()
    assert loss(both, 0, NO_CLASS) == pytest.approx((known + loss(sure, NO_CLASS)) / 2)


def test_alignment_leaves_clips_of_no_class_out() -> None:
    options = TrainOptions.of(Noise(), data=Path("none"))
    torch.manual_seed(0)
    residuals = {"audio": torch.rand(2, 4, 8), "visual": torch.rand(2, 4, 8)}
    logits, bias = torch.randn(4, len(options.task.labels)), torch.zeros(1)
    labels = torch.tensor([0, 1, NO_CLASS, NO_CLASS])
    known = {name: residual[:, :2] for name, residual in residuals.items()}
    _, alignment = compute_loss(Output(logits, bias, residuals), labels, options)
    _, expected = compute_loss(Output(logits[:2], bias, known), labels[:2], options)
    assert alignment.item() == pytest.approx(expected.item())
