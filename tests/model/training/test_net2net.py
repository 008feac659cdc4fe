"""A network with more channels begins by computing what the narrow one did."""

from __future__ import annotations

import pytest
import torch

from model.config import Config, StreamConfig
from model.network import SCMRL
from model.training.net2net import widen
from tests.model.networks import lively, noise


def config(embed_dim: int, **more: object) -> Config:
    stream = StreamConfig(channels=1, size=(32, 32))
    streams = {"audio": stream, "visual": stream}
    fields = {"streams": streams, "classes": 5, "heads": 4, "embed_dim": embed_dim}
    return Config(**fields | more)  # type: ignore[arg-type]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_one_stream_alone_gets_the_same_answer(times: int) -> None:
    narrow = lively(config(16))
    wide = SCMRL(config(16 * times)).eval()
    widen(narrow, wide)
    inputs = {"visual": noise(narrow.config, steps=3, batch=4)["visual"]}
    with torch.inference_mode():
        expected, actual = narrow(inputs).logits, wide(inputs).logits
    assert expected.std() > 0.01
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


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
