"""The batch size follows the number of clips and the free memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.training import batch_size
from model.training.avdigits.task import AVDigits
from model.training.batch_size import bytes_per_clip, choose_batch_size, free_bytes
from model.training.options import MIN_BATCH, OptionsError, TrainOptions

CPU = torch.device("cpu")


def options(**changes: object) -> TrainOptions:
    values: dict[str, object] = {"embed_dim": 16, "steps": 1, "batch": 2, **changes}
    return TrainOptions.of(AVDigits(), Path("data"), **values)


def test_a_small_folder_still_has_several_steps_an_epoch() -> None:
    assert choose_batch_size(options(clips=10_000), CPU) == batch_size.LARGEST
    assert choose_batch_size(options(clips=80), CPU) == 10
    assert choose_batch_size(options(clips=5), CPU) == MIN_BATCH


def test_a_batch_fits_in_its_share_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    per_clip = bytes_per_clip(options())
    for clips in (3, 17):
        free = round((clips + 0.5) * per_clip / batch_size.MEMORY_SHARE)
        monkeypatch.setattr(batch_size, "free_bytes", lambda _, free=free: free)
        assert choose_batch_size(options(clips=10_000), CPU) == clips


def test_a_clip_takes_memory_by_time_steps_and_channels() -> None:
    one, steps, wide = (
        bytes_per_clip(options(steps=steps, embed_dim=channels))
        for steps, channels in ((1, 16), (4, 16), (1, 32))
    )
    pictures = 4 * (64 * 192 + 96 * 128)
    assert one > 10 * pictures
    assert steps == pytest.approx(4 * one, rel=0.3)
    assert 1.3 * one < wide < 3 * one


def test_random_numbers_are_those_without_the_measurement() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    bytes_per_clip(options())
    assert torch.equal(torch.rand(3), expected)


def test_free_memory_is_some_of_this_machine() -> None:
    assert 1 << 20 < free_bytes(CPU) < 1 << 50


def test_a_batch_that_is_set_is_not_chosen() -> None:
    task = AVDigits()
    chosen = TrainOptions.of(task, Path("data"), auto_batch=True)
    assert chosen.auto_batch
    assert not TrainOptions.of(task, Path("data"), batch=8).auto_batch


def test_an_epoch_has_at_least_one_batch() -> None:
    with pytest.raises(OptionsError, match="--batch 2: must be at most --clips 1"):
        TrainOptions.of(AVDigits(), Path("data"), auto_batch=True, clips=1)
    assert TrainOptions.of(AVDigits(), Path("data"), auto_batch=True, clips=2)
