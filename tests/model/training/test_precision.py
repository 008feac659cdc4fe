"""bfloat16 is used where a step in it has the direction of one in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from model.config import Config, StreamConfig
from model.network import SCMRL
from model.training.precision import bfloat16_agrees
from tests.model.networks import lively, noise

STREAM = StreamConfig(channels=1, size=(32, 32))
CONFIG = Config(streams={"audio": STREAM, "visual": STREAM}, classes=3, heads=4, embed_dim=16)
INPUTS, LABELS = noise(CONFIG, steps=2, batch=12), torch.arange(12) % 3


def test_a_network_agrees_with_itself_and_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    network = lively(CONFIG)
    before = {name: x.clone() for name, x in network.state_dict().items()}
    monkeypatch.setattr("torch.autocast", _no_autocast)
    assert bfloat16_agrees(network, INPUTS, LABELS)
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    assert all(x.grad is None for x in network.parameters())


def _no_autocast(*_: Any, **__: Any) -> Any:
    return torch.enable_grad()


def test_a_network_whose_rounded_spikes_differ_does_not_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = lively(CONFIG)
    whole: Callable[..., Any] = SCMRL.forward

    def forward(self: SCMRL, inputs: dict[str, torch.Tensor], attention: bool = False) -> Any:
        if torch.is_autocast_enabled("cpu"):
            inputs = {name: -x for name, x in inputs.items()}
        return whole(self, inputs, attention)

    monkeypatch.setattr(SCMRL, "forward", forward)
    assert not bfloat16_agrees(network, INPUTS, LABELS)
