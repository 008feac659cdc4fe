"""Weights of other labels, streams and sizes are taken where they fit, and computed alike."""

from __future__ import annotations

from typing import Any

import torch

from model.checkpoint import Card
from model.config import Config, StreamConfig
from model.network import SCMRL
from model.preprocess.specs import FrameSpec, SpectrogramSpec
from model.training.transfer import transfer
from tests.model.networks import lively, noise

SOUND = SpectrogramSpec(sample_rate=8000, n_fft=256, hop_length=80, size=(32, 32))
GREY = FrameSpec(fit="pad", background="median", resize="area", size=(32, 32), frames="spread")


def config(embed_dim: int = 16, classes: int = 3, **sizes: tuple[int, int]) -> Config:
    """Streams by name, as (channels, side)."""
    streams = {
        name: StreamConfig(channels=channels, size=(side, side))
        for name, (channels, side) in sizes.items()
    }
    return Config(streams=streams, classes=classes, heads=4, embed_dim=embed_dim)


BOTH: dict[str, Any] = {"audio": (1, 32), "visual": (1, 32)}


def card_of(source: SCMRL) -> Card:
    return Card(
        name="source", version="1", description="", streams={"audio": SOUND, "visual": GREY},
        encoding="direct", steps=2, labels=("one", "two", "six"), config=source.config,
        missing_streams=True,
    )  # fmt: skip


def answers(network: SCMRL, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return network.eval()(inputs).logits


def test_shared_labels_keep_their_logits_at_another_size() -> None:
    source = lively(config(**BOTH))
    target = SCMRL(config(classes=4, audio=(1, 48), visual=(1, 48)))
    report = transfer(source, card_of(source), target, ("six", "seven", "two", "ten"))
    assert report.new == ()
    assert "head" in report.parts
    inputs = noise(target.config, steps=2, batch=3)
    ours, theirs = answers(target, inputs), answers(source, inputs)
    torch.testing.assert_close(ours[:, [0, 2]], theirs[:, [2, 1]])
    assert str(report).startswith("weights of patch.audio, patch.visual, ")


def test_grey_becomes_colour_and_other_labels_have_a_new_head() -> None:
    source = lively(config(**BOTH))
    target = SCMRL(config(classes=2, visual=(3, 32), audio=(1, 32)))
    before = target.head.weight.clone()
    report = transfer(source, card_of(source), target, ("cat", "dog"))
    assert report.new == ("head",)
    assert torch.equal(target.head.weight, before)
    grey = noise(source.config, steps=2, batch=3)["visual"]
    with torch.inference_mode():
        ours = target.eval().patch["visual"](grey.expand(-1, -1, 3, -1, -1))
        theirs = source.patch["visual"](grey)
    torch.testing.assert_close(ours, theirs)


def test_a_network_of_one_stream_takes_the_patches_of_two() -> None:
    source = lively(config(**BOTH))
    target = SCMRL(config(embed_dim=32, classes=2, visual=(1, 32)))
    report = transfer(source, card_of(source), target, ("cat", "dog"))
    assert report.parts == ("patch.visual",)
    assert report.new == ("blocks.0", "head")


def test_what_does_not_fit_is_said_and_changes_nothing() -> None:
    source = lively(config(embed_dim=32, **BOTH))
    for target, message in (
        (SCMRL(config(**BOTH)), "has 32 channels; use --channels 32, or a multiple of it"),
        (SCMRL(config(embed_dim=32, touch=(1, 32))), "no part of its network fits: its streams"),
    ):
        before = {name: x.clone() for name, x in target.state_dict().items()}
        report = transfer(source, card_of(source), target, ("one", "two", "six"))
        assert report.parts == ()
        assert str(report).startswith(message)
        assert all(torch.equal(x, before[name]) for name, x in target.state_dict().items())
