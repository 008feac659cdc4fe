"""The task handsigns is trained, from a checkpoint of avdigits as well, and evaluated in parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from model import checkpoint
from model.network import SCMRL
from model.training.avdigits.task import AVDigits
from model.training.checkpoint_task import task_of_card
from model.training.evaluate import evaluate
from model.training.evaluation_options import EvaluateOptions
from model.training.handsigns.task import HandSigns
from model.training.options import OptionsError, TrainOptions
from model.training.train import train
from model.training.training_card import make_card

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.slow]


def options(task: HandSigns | AVDigits, data: Path, out: Path, **changes: object) -> TrainOptions:
    return TrainOptions.of(
        task, data, out=out, epochs=1, clips=12, batch=6, embed_dim=16, steps=2,
        development_clips=10, **changes,
    )  # fmt: skip


def test_the_task_is_trained_and_evaluated_in_parts(
    handsigns_folder: Path, avdigits_folder: Path, tmp_path: Path
) -> None:
    digits = tmp_path / "digits"
    trained = options(AVDigits(synthetic_takes=0), avdigits_folder, digits)
    of_digits = make_card(trained, epochs=0)
    checkpoint.save(digits, SCMRL(of_digits.config), of_digits)
    task = HandSigns(synthetic_takes=0, backgrounds=5)
    best = train(options(task, handsigns_folder, tmp_path / "run", init_from=digits))
    network, card = checkpoint.load(best)
    assert isinstance(task_of_card(card, best), HandSigns)
    assert isinstance(task_of_card(checkpoint.read_card(digits), digits), AVDigits)
    assert card.streams == dict(HandSigns.specs)
    assert network.config.streams["visual"].channels == 3
    assert {stream.tokens for stream in network.config.streams.values()} == {48}
    licences = [source.licence for source in card.data]
    assert licences == ["Apache-2.0", "CC BY-SA 4.0", "CC BY-SA 3.0"], "MNIST: by init_from"
    assert card.training is not None
    assert card.training.notes["init_from"].startswith("scmrl train avdigits")
    assert "bricks" in card.training.notes["backgrounds"]

    measured = evaluate(
        EvaluateOptions(
            best, handsigns_folder, tmp_path / "figures", clips=20, curve_clips=2,
            attention_clips=2, device="cpu",
        ),
        Console(quiet=True),
    )  # fmt: skip
    counts = {m.what: m.n for m in measured.accuracy}
    for streams in ("both streams", "picture alone", "sound alone"):
        assert counts[f"accuracy, {streams}"] == 20
        assert counts[f"accuracy, {streams}, plain background"] == 10
        assert counts[f"accuracy, {streams}, busy background"] == 10


def test_an_option_out_of_its_range_is_refused() -> None:
    with pytest.raises(OptionsError, match="--backgrounds 4: must be 5 to 20000"):
        HandSigns(backgrounds=4)


def test_the_card_names_synthetic_voices_where_they_were_used() -> None:
    names = [source.name for source in HandSigns(synthetic_takes=7).sources()]
    assert names == [
        "Sign Language Digits Dataset", "Free Spoken Digit Dataset", "espeak-ng voices",
    ]  # fmt: skip
