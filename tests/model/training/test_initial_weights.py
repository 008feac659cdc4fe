"""Towers with new weights in a network that begins from a checkpoint."""

from __future__ import annotations

import torch

from model.config import Config, StreamConfig
from model.network import SCMRL
from model.training.initial_weights import keep_new_towers
from tests.model.networks import lively, noise

STREAM = StreamConfig(channels=1, size=(32, 32))
CONFIG = Config(
    streams={"audio": STREAM, "visual": STREAM}, classes=5, heads=4, embed_dim=16,
)  # fmt: skip


def test_the_named_tower_keeps_its_own_weights_and_gets_the_bias() -> None:
    source = lively(CONFIG)
    network = SCMRL(CONFIG)
    own = {name: x.clone() for name, x in network.state_dict().items()}
    with keep_new_towers(network, {"visual": 1.0}):
        network.load_state_dict(source.state_dict())
    theirs = source.state_dict()
    for name, x in network.state_dict().items():
        new = name.startswith(("patch.visual.", "mlp.visual."))
        if new and name.endswith("norm.bias"):
            assert torch.equal(x, torch.ones_like(x)), name
        else:
            assert torch.equal(x, (own if new else theirs)[name]), name


def test_more_neurons_of_a_tower_with_the_bias_fire_at_one_time_step() -> None:
    rates = []
    for bias in (0.0, 1.0):
        torch.manual_seed(0)
        network = SCMRL(CONFIG).train()
        with keep_new_towers(network, {"visual": bias}):
            pass
        inputs = {"visual": noise(CONFIG, steps=1, batch=16)["visual"]}
        rates.append(float(network(inputs).firing_rates["visual"].detach().mean()))
    assert rates[1] > 2 * rates[0]
