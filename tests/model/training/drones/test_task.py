"""The task drones is trained with a fold left out, and evaluated on movies and made clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from model import checkpoint
from model.media.reader import read_clip
from model.training.checkpoint_task import task_of_card
from model.training.drones.clips import MADE, MOVIES
from model.training.drones.task import Drones
from model.training.evaluate import evaluate
from model.training.evaluation_options import EvaluateOptions
from model.training.options import OptionsError, TrainOptions
from model.training.train import train


def test_clips_are_read_back_as_they_were_made(drones_folder: Path) -> None:
    clips = list(Drones().load(drones_folder).test_clips(7, seed=2))
    assert [clip.label for clip in clips] == [0, 0, 1, 2, 0, 1, 2]
    assert [clip.part for clip in clips] == [MOVIES] + [MADE] * 6
    for clip in clips[1:]:
        read = read_clip(clip.data, 3)
        assert read.sound is not None
        assert read.pictures is not None
        assert read.pictures.frames[0].shape == (256, 256, 3)
        assert read.sound.duration_s == pytest.approx(3.0, abs=0.1)
        left, top, right, bottom = (round(side) for side in clip.box)
        frame = read.pictures.frames[1].astype(int)
        distance = np.abs(frame - np.median(frame, (0, 1))).max(2)
        assert distance[top:bottom, left:right].max() > 60
        distance[top:bottom, left:right] = 0
        assert distance.max() < 50


def test_a_fold_is_tested_on_itself_without_movies(drones_folder: Path) -> None:
    clips = list(Drones(fold=2).load(drones_folder).test_clips(6, seed=2))
    assert {clip.part for clip in clips} == {MADE}
    assert not {clip.name for clip in clips} & {
        clip.name for clip in Drones(fold=3).load(drones_folder).test_clips(6, seed=2)
    }


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_the_task_is_trained_and_evaluated(drones_folder: Path, tmp_path: Path) -> None:
    task = Drones(fold=1)
    best = train(
        TrainOptions.of(
            task, drones_folder, out=tmp_path / "run", epochs=1, clips=12, batch=6, embed_dim=16,
            development_clips=9,
        )
    )  # fmt: skip
    network, card = checkpoint.load(best)
    assert task_of_card(card, best) == task
    assert {stream.tokens for stream in network.config.streams.values()} == {16}
    assert [source.licence for source in card.data] == ["CC0 1.0"]
    assert card.training is not None
    assert card.training.notes["fold"] == "1"
    measured = evaluate(
        EvaluateOptions(
            best, drones_folder, tmp_path / "figures", clips=12, curve_clips=2,
            attention_clips=2, device="cpu",
        ),
        Console(quiet=True),
    )  # fmt: skip
    counts = {m.what: m.n for m in measured.accuracy}
    for streams in ("both streams", "picture alone", "sound alone"):
        assert counts[f"accuracy, {streams}"] == 12
    assert counts["recall, helicopter"] == 4
    assert checkpoint.read_card(best).accuracy == ()  # it is not written unasked


def test_an_option_out_of_its_range_is_refused() -> None:
    with pytest.raises(OptionsError, match="--fold 5: must be 0 to 4"):
        Drones(fold=5)
