"""The map's mass is that in the box of the object that is heard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from model import checkpoint
from model.media.types import Pictures, Sound
from model.network import SCMRL, Output, StreamAttention
from model.preprocess.prepared import Prepared
from model.training.avdigits.task import AVDigits
from model.training.evaluator import Evaluator
from model.training.options import TrainOptions
from model.training.study.following import follow
from model.training.tasks import TASKS
from model.training.training_card import make_card
from model.training.two_objects import TwoObjectData, TwoObjects
from tests.model.training.handsigns.data_folder import make_folder

CARD = make_card(TrainOptions.of(AVDigits(), Path("data"), embed_dim=16, steps=2), 0)
#: The left object's sound is quiet, the right one's is loud.
PAIR = TwoObjects(
    pictures=Pictures((np.zeros((96, 128, 3), np.uint8),), (0.0,)),
    boxes=((0.0, 0.0, 48.0, 96.0), (80.0, 0.0, 128.0, 96.0)),
    labels=(1, 6),
    sounds=(Sound(np.full((1, 8000), 0.1, np.float32), 8000),
            Sound(np.full((1, 8000), 0.5, np.float32), 8000)),
)  # fmt: skip


class Pointing(Evaluator):
    """Answers by the sample's index; its attention points to `columns` by the sample, the class
    activation of a label to the column of the label's number."""

    def __init__(self, folder: Path, answers: Sequence[int], columns: Sequence[int]) -> None:
        super().__init__(folder, "cpu")
        self.answers = answers
        self.columns = columns

    def run(
        self, prepared: Sequence[dict[str, Prepared]], steps: int, explain: Sequence[str] = ()
    ) -> Output:
        maps = torch.zeros(len(prepared), 6, 8)
        for sample, column in enumerate(self.columns):
            maps[sample, :, column] = 1 / 6
        logits = torch.eye(10)[list(self.answers)]
        token_logits = torch.full((len(prepared), 6, 8, 10), -1.0)
        for column in range(8):
            token_logits[:, :, column, column] = 1.0
        return Output(
            logits,
            torch.zeros(10),
            attention={"visual": StreamAttention(maps, None)},
            token_logits={"visual": token_logits},
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(folder, SCMRL(CARD.config), CARD)
    return folder


def test_a_map_that_follows_has_its_mass_on_what_is_heard(folder: Path) -> None:
    result = follow(Pointing(folder, (1, 6), (1, 6)), [PAIR], 2, "visual")
    for mass, other, correlation in (
        (result.mass, result.other, result.correlation),
        (result.class_mass, result.class_other, result.class_correlation),
    ):
        assert mass.tolist() == pytest.approx([1.0])
        assert other.tolist() == pytest.approx([0.0])
        assert correlation[0] < 0
    assert (result.heard[0], result.seen[0]) == (1, 0)


def test_a_map_that_does_not_follow_has_the_same_mass_for_both(folder: Path) -> None:
    result = follow(Pointing(folder, (1, 1), (1, 1)), [PAIR], 2, "visual")
    assert result.mass.tolist() == pytest.approx([0.5])
    assert result.other.tolist() == pytest.approx([0.5])
    assert result.correlation.tolist() == pytest.approx([1.0])
    assert (result.heard[0], result.seen[0]) == (0.5, 0.5)
    assert result.class_mass.tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("task", ["avdigits", "handsigns"])
def test_pictures_of_two_objects_show_both_in_their_boxes(
    task: str, avdigits_folder: Path, tmp_path: Path
) -> None:
    folder = avdigits_folder
    if task == "handsigns":
        folder = make_folder(tmp_path, avdigits_folder / "speech")
    data = TASKS[task]().load(folder)
    assert isinstance(data, TwoObjectData)
    first, again = (list(data.two_objects(6, 7)) for _ in range(2))
    sides = set()
    for pair, same in zip(first, again, strict=True):
        assert pair.labels[0] != pair.labels[1]
        frame = pair.pictures.frames[0]
        assert np.array_equal(frame, same.pictures.frames[0])
        height, width = frame.shape[:2]
        (l0, t0, r0, b0), (l1, t1, r1, b1) = pair.boxes
        assert min(l0, l1, t0, t1) >= -1
        assert max(r0, r1) <= width + 1
        assert max(b0, b1) <= height + 1
        assert r0 <= l1 + 2 or r1 <= l0 + 2 or b0 <= t1 + 2 or b1 <= t0 + 2  # apart
        sides.add((l0 < l1) if width >= height else (t0 < t1))
        for box in pair.boxes:
            left, top, right, bottom = (round(max(0, x)) for x in box)
            inside = frame[top:bottom, left:right].astype(float)
            assert inside.std() > 5  # ink on paper
        assert pair.sounds[0].samples.shape != pair.sounds[1].samples.shape
    assert sides == {True, False}
