"""The task ndigits-events is trained, calibrated and evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from model import checkpoint
from model.training.calibrate import calibrate
from model.training.checkpoint_task import task_of_card
from model.training.evaluate import evaluate
from model.training.evaluation_options import CalibrateOptions, EvaluateOptions
from model.training.ndigits_events.task import NDigitsEvents
from model.training.options import TrainOptions
from model.training.train import train

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.slow]


def test_the_task_is_trained_calibrated_and_evaluated(digits_folder: Path, tmp_path: Path) -> None:
    options = TrainOptions.of(
        NDigitsEvents(synthetic_takes=0), digits_folder, out=tmp_path / "run", epochs=1, clips=12,
        batch=6, embed_dim=16, steps=3, development_clips=10,
    )  # fmt: skip
    best = train(options)
    network, card = checkpoint.load(best)
    assert isinstance(task_of_card(card, best), NDigitsEvents)
    assert {stream.tokens for stream in network.config.streams.values()} == {64}
    assert {stream.splitting for stream in network.config.streams.values()} == {"shallow"}
    assert [source.name for source in card.data] == ["N-MNIST", "Free Spoken Digit Dataset"]
    assert card.training is not None
    assert card.training.notes["cochlea"].startswith("simulated")

    quiet = Console(quiet=True)
    calibrated = calibrate(
        CalibrateOptions(best, digits_folder, steps="3", clips=20, examples=0, device="cpu"),
        quiet,
    )
    assert calibrated.calibration is not None
    assert calibrated.calibration.alone.keys() == {"audio", "visual"}
    measured = evaluate(
        EvaluateOptions(
            best, digits_folder, tmp_path / "figures", clips=30, curve_clips=10,
            attention_clips=2, device="cpu",
        ),
        quiet,
    )  # fmt: skip
    counts = {m.what: m.n for m in measured.accuracy}
    for streams in ("both streams", "events alone", "sound alone"):
        assert counts[f"accuracy, {streams}"] == 30  # recordings come again


def test_the_card_names_synthetic_voices_where_they_were_used() -> None:
    names = [source.name for source in NDigitsEvents(synthetic_takes=7).sources()]
    assert names == ["N-MNIST", "Free Spoken Digit Dataset", "espeak-ng voices"]
