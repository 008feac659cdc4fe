"""A training that does not learn causes warnings, and one that learns causes none."""

from __future__ import annotations

import pytest
import torch

from model.config import Config, StreamConfig
from model.network import SCMRL
from model.training.batch_norm import (
    BATCH_NORMS,
    MIN_BATCHES,
    freeze_batch_norm,
    recompute_batch_norm_statistics,
)
from model.training.health import MIN_EPOCHS, Health, observe
from tests.model.networks import lively, noise

STREAM = StreamConfig(channels=1, size=(32, 32))
CONFIG = Config(streams={"audio": STREAM, "visual": STREAM}, classes=3, heads=4, embed_dim=16)
INPUTS = noise(CONFIG, steps=2, batch=12)
LABELS = torch.arange(12) % 3


def checked(network: SCMRL, losses: list[float], *, settled: bool = True) -> list[str]:
    """The warnings after epochs of these losses."""
    health = Health(("cat", "dog", "cow"))
    for loss in losses:
        health.check(network, INPUTS, LABELS, loss, settled=settled)
    assert health.new_warnings() == list(health.warnings)
    assert health.new_warnings() == []
    return list(health.warnings)


def test_a_network_whose_layers_fire_and_whose_loss_falls_is_sound() -> None:
    assert checked(firing(), [3.0, 2.0, 1.0]) == []


def firing() -> SCMRL:
    """A network of which every layer fires, and whose answers differ."""
    network = lively(CONFIG)
    weights = network.state_dict()
    for name in weights:
        if name.startswith("residual.") and name.endswith("threshold"):
            weights[name] = torch.tensor(0.005)
    network.load_state_dict(weights)
    with torch.inference_mode():
        logits = network(INPUTS).logits
    with torch.no_grad():
        network.head.bias.sub_(logits.mean(0))
    return network


def test_layers_without_spikes_are_named() -> None:
    network = firing()
    with torch.no_grad():
        network.mlp["visual"].contract.norm.bias.fill_(-100)
    (warning,) = checked(network, [3.0, 2.0, 1.0])
    assert warning.startswith("no spikes in mlp.visual.contract, ")
    assert checked(network, [3.0] * (MIN_EPOCHS - 1)) == []  # too early to say


def test_equal_answers_are_reported() -> None:
    network = firing()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()
    (warning,) = checked(network, [3.0, 2.0, 1.0])
    assert warning.startswith("all 12 held-out clips have the same answer (0.33, 0.33, 0.33, …)")
    network = firing()
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
        network.head.weight.mul_(10)
    assert any("are answered 'dog'" in text or "same answer" in text
               for text in checked(network, [3.0, 2.0, 1.0]))  # fmt: skip


@pytest.mark.parametrize(("losses", "falls"), [([1.1, 1.1, 1.1, 1.1], False),
                                               ([1.0, 2.0, 3.0], False),
                                               ([1.1, 1.0, 0.9], True)])  # fmt: skip
def test_a_loss_that_does_not_fall_is_reported(losses: list[float], falls: bool) -> None:
    warnings = [text for text in checked(firing(), losses) if "the loss has not fallen" in text]
    assert bool(warnings) is not falls


def test_norms_that_have_seen_few_batches_or_drifted_are_reported() -> None:
    network = firing()
    (few,) = checked(network, [1.0], settled=False)
    assert few.startswith(f"batch norms have seen 0 batches and need {MIN_BATCHES} to settle")
    assert checked(network, [1.0]) == []
    recompute_batch_norm_statistics(network, [INPUTS])
    for norm in norms(network):
        norm.num_batches_tracked.fill_(100)
    assert checked(network, [1.0], settled=False) == []
    with torch.no_grad():
        network.patch["audio"].stages[0].norm.running_mean.add_(50)
    (drifted,) = checked(network, [1.0], settled=False)
    assert drifted.startswith("batch norms have not settled: patch.audio.stages.0.norm")


def norms(network: SCMRL) -> list[torch.nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, BATCH_NORMS)]  # type: ignore[misc]


def test_a_check_changes_nothing() -> None:
    network = firing().train()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    observe(network, INPUTS)
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


# --- batch norms ---------------------------------------------------------------------------------


def test_settled_norms_have_the_mean_of_the_batches() -> None:
    network = SCMRL(CONFIG)
    network.train()
    for _ in range(5):
        network(noise(CONFIG, steps=2, batch=12, seed=9))
    batches = [noise(CONFIG, steps=2, batch=12, seed=seed) for seed in (1, 2, 3)]
    first = network.patch["audio"].stages[0]
    expected = torch.stack(
        [first.conv(x["audio"].flatten(0, 1)).mean((0, 2, 3)).detach() for x in batches]
    ).mean(0)
    recompute_batch_norm_statistics(network, batches)
    torch.testing.assert_close(first.norm.running_mean, expected, rtol=1e-4, atol=1e-5)
    assert first.norm.momentum == 0.1
    assert int(first.norm.num_batches_tracked) == 3


def test_frozen_norms_keep_their_statistics() -> None:
    network = firing().train()
    before = network.patch["audio"].stages[0].norm.running_mean.clone()
    freeze_batch_norm(network)
    network(INPUTS)
    assert torch.equal(network.patch["audio"].stages[0].norm.running_mean, before)
