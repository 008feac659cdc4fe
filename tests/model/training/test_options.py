"""Options out of range are refused, naming the option."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import Fusion
from model.training.avdigits.task import AVDigits
from model.training.options import OptionsError, TrainOptions, flag, range_of
from model.training.training_card import make_card, network_config

#: Least and greatest value of each number among the options.
RANGES = {
    field.name: bounds
    for kind in (TrainOptions, AVDigits)
    for field in fields(kind)
    if (bounds := range_of(field))
}


def build(name: str, value: Any) -> TrainOptions:
    """Options with this value of an option of training or of the task."""
    if name == "synthetic_takes":
        return TrainOptions.of(AVDigits(synthetic_takes=value), Path("data"))
    return TrainOptions.of(AVDigits(), Path("data"), **{name: value})


@given(name=st.sampled_from(sorted(RANGES)), data=st.data())
@settings(max_examples=80)
def test_a_number_out_of_range_is_refused_by_its_option(name: str, data: st.DataObject) -> None:
    least, most = RANGES[name]
    huge = [least - 1, -1e308, most + most / 2 + 1, 1e308, np.inf, -np.inf, np.nan]
    value = data.draw(st.sampled_from(huge))
    with pytest.raises(OptionsError, match=f"{flag(name)} .*: must be .* to "):
        build(name, value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 40}, "--channels 40: must be a multiple of 16"),
        ({"batch": 60, "clips": 50}, "--batch 60: must be at most --clips 50"),
        ({"average": 3, "epochs": 2}, "--average 3: must be at most --epochs 2"),
        (
            {"lr_multiplier": {"touch": 0.1}},
            "--lr-multiplier touch: no such stream; choose audio, visual",
        ),
        (
            {"new_towers": {"touch": 1.0}},
            "--new-towers touch: no such stream; choose audio, visual",
        ),
        ({"new_towers": {"audio": np.nan}}, "--new-towers audio=nan: must be -10 to 10"),
        ({"lr_multiplier": {"audio": np.nan}}, "--lr-multiplier audio=nan: must be 0 to 100"),
        (
            {"modality_dropout": {}},
            "--modality-dropout : must be probabilities of all, audio, visual",
        ),
        ({"modality_dropout": {"all": np.nan}}, "--modality-dropout all=nan: must be"),
        ({"modality_dropout": {"all": np.inf}}, "--modality-dropout all=inf: must be"),
        (
            {"modality_dropout": {"all": 0.5, "touch": 0.5}},
            "--modality-dropout all=0.5,touch=0.5: must be",
        ),
        (
            {"modality_dropout": {"all": 1.5, "audio": -0.5}},
            "--modality-dropout all=1.5,audio=-0.5: must be",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError) as raised:
        TrainOptions.of(AVDigits(), Path("data"), **options)
    assert str(raised.value).startswith(message)


def test_another_fusion_takes_the_place_of_the_residuals() -> None:
    """So `scmrl train --fusion NAME` needs no other option; neither loss nor card has a part that
    the network has not."""
    for fusion in get_args(Fusion):
        options = TrainOptions.of(AVDigits(), Path("data"), fusion=fusion)
        of_scmrl = fusion in ("add", "concat")
        assert options.has_residuals == of_scmrl
        assert network_config(options).fusion == fusion
        assert (network_config(options).attention is not None) == of_scmrl
        training = make_card(options, epochs=1).training
        assert training is not None
        assert ("semantic alignment" in training.notes["loss"]) == of_scmrl
