"""A network with more channels begins by computing what the narrow one did."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.checkpoint import load
from model.config import Config, StreamConfig
from model.engine.inputs import encode_batch
from model.media.reader import read_clip
from model.network import SCMRL
from model.preprocess.prepare import prepare
from model.training.net2net import widen
from model.training.transfer import transfer
from service.default_checkpoint import WEIGHTS
from tests.conftest import ROOT
from tests.model.networks import lively, noise


def config(embed_dim: int, **more: object) -> Config:
    stream = StreamConfig(channels=1, size=(32, 32))
    streams = {"audio": stream, "visual": stream}
    fields = {"streams": streams, "classes": 5, "heads": 4, "embed_dim": embed_dim}
    return Config(**fields | more)  # type: ignore[arg-type]


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("streams", [("visual",), ("audio", "visual")])
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_a_wider_network_answers_the_same_at_any_t(
    times: int, streams: tuple[str, ...], steps: int
) -> None:
    narrow = lively(config(16), seed=2)
    wide = SCMRL(config(16 * times)).eval()
    widen(narrow, wide)
    inputs = noise(narrow.config, steps=steps, batch=4)
    same_answers(narrow, wide, {name: inputs[name] for name in streams}, steps)


@pytest.mark.parametrize(
    "part", [{"attention": "spatial"}, {"attention": "temporal"}, {"alignment": False},
             *({"fusion": each, "attention": None} for each in ("sca", "cmqka", "cmci", "taaf"))],
)  # fmt: skip
def test_each_attention_and_fusion_computes_the_same(part: dict[str, object]) -> None:
    narrow, wide = lively(config(16, **part), seed=2), SCMRL(config(32, **part)).eval()
    widen(narrow, wide)
    same_answers(narrow, wide, noise(narrow.config, steps=3, batch=4), steps=3)


def same_answers(narrow: SCMRL, wide: SCMRL, inputs: dict[str, Tensor], steps: int) -> None:
    """The answers and residuals are the same; these fire, but at T = 1."""
    inputs = {name: x.expand(steps, -1, -1, -1, -1) for name, x in inputs.items()}
    with torch.inference_mode():
        ours, theirs = wide(inputs), narrow(inputs)
    assert theirs.logits.std() > 0.01
    for stream, residual in theirs.residuals.items():
        assert residual.any() or steps == 1
        copies = ours.residuals[stream].unflatten(2, (residual.shape[2], -1))
        torch.testing.assert_close(copies.mean(3), residual, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_checkpoint_that_ships_grows_at_another_t() -> None:
    """avdigits, of T = 4, at T = 2 with twice the channels and an alpha: its residuals fire."""
    narrow, card = load(WEIGHTS / "avdigits")
    narrow.config = card.config.model_copy(update={"alpha": 1.0})
    wide = SCMRL(narrow.config.model_copy(update={"embed_dim": 256})).eval()
    assert transfer(narrow, card, wide, card.labels).new == ()
    clip = read_clip((ROOT / "tests" / "data" / "clips" / "digit-7.webm").read_bytes(), 2)
    prepared = prepare(card.streams, clip.sound, clip.pictures, 2)
    same_answers(narrow, wide, encode_batch([prepared], card.encoding, 2), steps=2)


def test_copies_of_a_channel_do_not_stay_equal() -> None:
    narrow, wide = lively(config(16)), SCMRL(config(32))
    widen(narrow, wide)
    inputs = noise(wide.config, steps=2, batch=4)
    wide.train()(inputs).logits.square().sum().backward()
    gradient = wide.state_dict(keep_vars=True)["patch.visual.stages.1.conv.weight"].grad
    assert gradient is not None
    assert not torch.allclose(gradient[0::2], gradient[1::2])


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="cannot become"):
        widen(lively(config(32)), SCMRL(config(48)))
    with pytest.raises(ValueError, match="layout"):
        widen(lively(config(16)), SCMRL(config(16, alignment=False)))
