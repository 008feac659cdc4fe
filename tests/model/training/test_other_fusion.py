"""A network that starts from a checkpoint with another fusion is near the sum of the streams, and
what is new in it can learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.checkpoint import Card
from model.config import Config, Fusion, StreamConfig
from model.network import SCMRL
from model.network.neuron import LIF
from model.preprocess.specs import FrameSpec
from model.training import new_residual
from model.training.batch_norm import BATCH_NORMS, MIN_BATCHES
from model.training.initial_weights import start_as_sum
from model.training.new_residual import bias_of
from model.training.transfer import transfer
from tests.model.networks import lively, noise

pytestmark = pytest.mark.usefixtures("one_core")

LABELS = ("zero", "one", "two")
NAMES = ("audio", "visual", "tactile")
STREAM = StreamConfig(channels=1, size=(16, 16), splitting="shallow")


def config(fusion: Fusion = "add", streams: int = 2, **more: Any) -> Config:
    fields = {
        "streams": dict.fromkeys(NAMES[:streams], STREAM), "classes": len(LABELS), "heads": 4,
        "embed_dim": 32, "attention": None, "alignment": False, "fusion": fusion,
    }  # fmt: skip
    return Config(**fields | more)


def card_of(network: SCMRL) -> Card:
    grey = FrameSpec(fit="pad", background="median", resize="area", size=(16, 16), frames="spread")
    return Card(
        name="source", version="1", description="", encoding="direct", steps=2,
        streams=dict.fromkeys(network.config.streams, grey), config=network.config,
        labels=LABELS[: network.config.classes], missing_streams=True,
    )  # fmt: skip


def started(
    source: SCMRL, target: Config, steps: int = 2, labels: Sequence[str] = LABELS
) -> tuple[SCMRL, list[str]]:
    """A network of the configuration `target`, from the weights of `source`; and what was done."""
    torch.manual_seed(0)
    network = SCMRL(target)
    report = transfer(source, card_of(source), network, labels)
    batches = (noise(target, steps=steps, batch=40, seed=seed) for seed in (1, 2))
    return network, list(start_as_sum(network, report.new, steps, batches))


def logits(network: SCMRL, inputs: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        return network.eval()(inputs).logits


def subsets(inputs: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for count in range(1, len(inputs) + 1):
        for names in combinations(inputs, count):
            yield {name: inputs[name] for name in names}


@pytest.mark.parametrize("attention", [None, "spatial-temporal"])
@pytest.mark.parametrize(("streams", "channels"), [(2, 32), (3, 32), (2, 64)])
def test_a_concatenation_answers_as_the_sum_with_any_streams(
    attention: str | None, streams: int, channels: int
) -> None:
    source = lively(config(streams=streams, attention=attention))
    target = config("concat", streams, attention=attention, embed_dim=channels)
    network, _ = started(source, target)
    for inputs in subsets(noise(target, steps=2, batch=4)):
        expected = logits(source, inputs)
        assert expected.std() > 0.01
        torch.testing.assert_close(logits(network, inputs), expected, rtol=0, atol=1e-5)


def test_a_concatenation_that_is_a_sum_becomes_one_and_another_the_mean_of_its_blocks() -> None:
    source = lively(config())
    joined, _ = started(source, config("concat"))
    back, _ = started(joined, config())
    assert torch.equal(back.head.weight, source.head.weight)
    with torch.no_grad():
        joined.head.weight[:, :32] *= 3  # the first stream's
    back, _ = started(joined, config())
    torch.testing.assert_close(back.head.weight, 2 * source.head.weight)


def test_a_concatenation_keeps_the_blocks_of_its_streams() -> None:
    """From two streams to three: a new one gets the mean, to one alone: its own block."""
    source = lively(config("concat"))
    first, second = source.head.weight.detach().split(32, 1)
    more, _ = started(source, config("concat", 3))
    torch.testing.assert_close(
        more.head.weight.detach(), torch.cat([first, second, (first + second) / 2], 1)
    )
    alone, _ = started(source, config(streams=1))
    torch.testing.assert_close(alone.head.weight.detach(), first)


@pytest.mark.parametrize("streams", [2, 3])
def test_weighted_attention_answers_as_the_sum_with_all_streams(streams: int) -> None:
    source = lively(config(streams=streams))
    network, changes = started(source, config("weighted", streams))
    inputs = noise(network.config, steps=2, batch=4)
    torch.testing.assert_close(logits(network, inputs), logits(source, inputs))
    for subset in subsets(inputs):  # the weights of n streams are 1 / n
        sums = logits(source, subset) - source.head.bias
        expected = source.head.bias + streams / len(subset) * sums
        torch.testing.assert_close(logits(network, subset), expected)
    assert changes == ["fuse.score starts with equal weights of all streams"]
    back, _ = started(network, config(streams=streams))
    torch.testing.assert_close(back.head.weight, source.head.weight)


@pytest.mark.parametrize("fusion", ["weighted", "taaf"])
def test_equal_weights_can_learn(fusion: Fusion) -> None:
    network, _ = started(lively(config()), config(fusion))
    network.train()(noise(network.config, steps=2, batch=8)).logits[:, 0].square().sum().backward()
    assert network.fuse is not None
    gradients = [x.grad for x in network.fuse.parameters() if x.grad is not None]
    assert any(bool(x.any()) for x in gradients)


def test_attention_over_time_answers_as_the_sum() -> None:
    source = lively(config())
    network, _ = started(source, config("taaf"))
    for inputs in subsets(noise(network.config, steps=3, batch=4)):
        torch.testing.assert_close(logits(network, inputs), logits(source, inputs))


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("rate", [0.03, 0.3])
def test_a_neuron_fires_at_the_rate_of_its_bias(rate: float, steps: int) -> None:
    lif = LIF()
    generator = torch.Generator().manual_seed(0)
    currents = torch.randn(200_000, generator=generator) + bias_of(rate, steps, lif)
    fired = lif(currents.expand(steps, -1)).mean()
    assert float(fired) == pytest.approx(rate, rel=0.03)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("fusion", ["sca", "cmqka"])
def test_a_new_residual_fires(fusion: Fusion, steps: int) -> None:
    network, changes = started(lively(config()), config(fusion), steps)
    assert changes == ["residual of audio, visual starts with a rate of 0.03"]
    assert_settled(network.residual)
    for mode in (True, False):
        rates = rates_of_residuals(network.train(mode), steps)
        assert all(0.005 < rate < 0.08 for rate in rates), rates


def test_without_its_biases_the_residual_of_sca_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_residual, "_fire", lambda *_: None)
    network, _ = started(lively(config()), config("sca"), steps=1)
    assert rates_of_residuals(network.train(), steps=1) == [0, 0]


def assert_settled(part: nn.Module) -> None:
    """Its norms keep the statistics of clips, so nothing warns that they have seen too few."""
    norms = [module for module in part.modules() if isinstance(module, BATCH_NORMS)]
    assert norms
    for norm in norms:
        assert int(norm.num_batches_tracked or 0) == MIN_BATCHES
        assert norm.running_mean is not None
        assert norm.running_mean.any()


def rates_of_residuals(network: SCMRL, steps: int) -> list[float]:
    inputs = noise(network.config, steps=1, batch=8)
    inputs = {name: x.expand(steps, -1, -1, -1, -1) for name, x in inputs.items()}
    with torch.no_grad():
        return [float(x.mean()) for x in network(inputs).residuals.values()]


@pytest.mark.parametrize(("steps", "streams"), [(1, 2), (2, 2), (1, 3)])
def test_neurons_of_cmci_count_how_far_the_logits_of_the_sum_have_got(
    steps: int, streams: int
) -> None:
    source = lively(config(streams=streams))
    network, changes = started(source, config("cmci", streams), steps)
    assert changes == ["fuse.current and head start near the sum of the streams"]
    assert network.fuse is not None
    assert_settled(network.fuse)
    inputs = noise(network.config, steps=steps, batch=200, seed=5)
    ours, theirs = logits(network, inputs), logits(source, inputs)
    pairs = zip(ours.T, theirs.T, strict=True)
    by_class = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]
    assert min(by_class) > 0.85
    assert (ours.argmax(1) == theirs.argmax(1)).float().mean() > 0.8
    # Batch norms in training have the same currents, but for the statistics of their own batch.
    with torch.no_grad():
        trained = network.train()(inputs).logits
    assert (ours - trained).abs().mean() < 0.5 * theirs.std()


def test_neurons_of_cmci_stay_new_where_they_are_too_few_or_the_labels_are_others() -> None:
    few = lively(config(classes=2, embed_dim=8, heads=2))
    many = config("cmci", classes=20, embed_dim=8, heads=2)
    labels = ("zero", *(str(number) for number in range(1, 20)))
    assert started(few, many, labels=labels)[1] == []
    _, changes = started(lively(config()), config("cmci"), labels=("cat", "dog", "cow"))
    assert changes == []


def test_a_head_that_reads_firing_rates_is_not_one_of_features() -> None:
    source = lively(config("cmci"))
    network = SCMRL(config())
    before = network.head.weight.clone()
    assert "head" in transfer(source, card_of(source), network, LABELS).new
    assert torch.equal(network.head.weight, before)
    again = SCMRL(config("cmci"))
    assert transfer(source, card_of(source), again, LABELS).new == ()
    assert torch.equal(again.head.weight, source.head.weight)
