"""Faithfulness measures whether attention maps point at what the prediction rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from model import checkpoint
from model.media.reader import Clip, Pictures, Sound, read_clip
from model.network import SCMRL, Output, StreamAttention
from model.preprocess.frames import prepare_frames
from model.preprocess.prepared import Prepared
from model.preprocess.specs import FrameSpec
from model.training.avdigits import folder as data_folder
from model.training.avdigits.clips import labelled_clips
from model.training.avdigits.task import AVDigits
from model.training.evaluator import DecodedClip, Evaluator
from model.training.faithfulness import HIDDEN, box_mask, content_mask, faithfulness, hide, upsample
from model.training.options import TrainOptions
from model.training.training_card import make_card

SQUARE = FrameSpec(fit="pad", background="median", resize="area", size=(96, 96), frames="spread")


CARD = make_card(TrainOptions.of(AVDigits(), Path("data"), embed_dim=16, steps=2), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was never trained."""
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(folder, SCMRL(CARD.config), CARD)
    return folder


@pytest.fixture(scope="module")
def clips(avdigits_folder: Path) -> list[DecodedClip]:
    labelled = labelled_clips(data_folder.load(avdigits_folder)[1], 3, 7)
    return [DecodedClip(clip, read_clip(clip.data, CARD.steps)) for clip in labelled]


def clip(seconds: float = 1.0) -> Clip:
    time = np.arange(round(16_000 * seconds)) / 16_000
    sound = Sound(np.sin(2 * np.pi * 440 * time)[None].astype(np.float32) * 0.2, 16_000)
    grey = np.tile(np.linspace(60, 190, 320), (240, 1)).astype(np.uint8)
    pictures = Pictures((np.repeat(grey[:, :, None], 3, 2),) * 2, (0.0, 0.5))
    return Clip(sound=sound, pictures=pictures, sound_problem=None, pictures_problem=None)


def test_hiding_covers_a_fifth_of_the_frame_and_no_padding() -> None:
    pictures = clip().pictures
    assert pictures is not None
    prepared = prepare_frames(pictures, SQUARE, 2)
    frame = content_mask(prepared)
    assert frame.sum() == 72 * 96  # 4:3 in a square of 96
    grid = np.zeros((6, 6), np.float32)
    grid[2, 1] = 1
    after = hide(prepared, upsample(grid, prepared))
    changed = np.any(after.tensor != prepared.tensor, axis=(0, 1))
    assert not changed[~frame].any()
    assert 0.9 * HIDDEN * frame.sum() <= changed.sum() <= HIDDEN * frame.sum() + 1
    assert changed[32 + 8, 16 + 8]  # the middle of the cell that the map points at


def test_a_box_in_frame_pixels_is_found_in_the_tensor() -> None:
    pictures = clip().pictures
    assert pictures is not None
    mask = box_mask(prepare_frames(pictures, SQUARE, 2), (160.0, 120.0, 320.0, 240.0))
    ys, xs = np.nonzero(mask)
    assert (ys.min(), ys.max()) == (48, 83)
    assert (xs.min(), xs.max()) == (48, 95)


@dataclass
class RestsOnTheInk(Evaluator):
    """Attends to the ink of the picture, or to the rest; its confidence grows with the ink."""

    at_ink: bool = True

    def run(
        self, prepared: Sequence[dict[str, Prepared]], steps: int, explain: Sequence[str] = ()
    ) -> Output:
        frames = self.encode(prepared, steps)["visual"].mean((0, 2))  # [B, H, W]
        logits = torch.zeros(len(frames), 10)
        logits[:, :] = 4 * (frames > 0.5).float().mean((1, 2))[:, None] * self.labels
        grid = adaptive_avg_pool2d(frames, (6, 8))
        attention_map = grid if self.at_ink else grid.amax((1, 2), keepdim=True) - grid
        spatial = attention_map / attention_map.sum((1, 2), keepdim=True)
        token_logits = torch.full((*grid.shape, 10), -5.0)
        token_logits[..., 0] = attention_map - attention_map.mean()
        return Output(
            logits,
            torch.zeros(10),
            attention={"visual": StreamAttention(spatial, None)},
            token_logits={"visual": token_logits},
        )

    @property
    def labels(self) -> Tensor:
        """More for each digit that the clips show."""
        return 100 * (torch.arange(10) < 1).float()


@pytest.mark.slow
@pytest.mark.parametrize("at_ink", [True, False])
def test_faithfulness_is_higher_for_maps_that_point_at_the_digit(
    at_ink: bool, folder: Path, clips: list[DecodedClip]
) -> None:
    evaluator = RestsOnTheInk(at_ink)
    Evaluator.__init__(evaluator, folder, "cpu")
    first_clip = clips[:1]
    assert first_clip[0].truth.label == 0
    of_kinds = faithfulness(evaluator, first_clip, CARD.steps, "visual")
    assert set(of_kinds) == {"attention", "class activation"}
    for measured in of_kinds.values():
        assert measured.count == 1
        assert 0 < measured.area < 1
        assert (measured.mass > 1.3 * measured.area) == at_ink
        assert (measured.drop_top > measured.drop_random) == at_ink
        if at_ink:
            assert measured.drop_top > 0.05
    # What is negative has no mass.
    assert (of_kinds["class activation"].mass > of_kinds["attention"].mass) == at_ink
