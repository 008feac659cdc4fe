"""Fusions of other papers: small cases by hand, and properties of all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model import checkpoint
from model.config import MAX_CMCI_STREAMS, SCMRL_FUSIONS, Config, Fusion, StreamConfig
from model.engine import Engine
from model.network import SCMRL
from model.network.cross_attention import QueryKeyAttention, SpikingCrossAttention
from model.network.fusion import CurrentIntegration, TemporalAttention, WeightedAttention
from model.network.neuron import LIF
from model.network.operations import count_operations
from tests.model.networks import lively, noise
from tests.service.checkpoints import CONFIG, save

FUSIONS: tuple[Fusion, ...] = ("weighted", "sca", "cmci", "taaf", "cmqka")
STREAMS = {
    "audio": StreamConfig(channels=1, size=(8, 12), splitting="shallow"),
    "visual": StreamConfig(channels=3, size=(8, 12), splitting="shallow"),
    "tactile": StreamConfig(channels=1, size=(8, 12), splitting="shallow"),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(fusion: Fusion, count: int = 3, **more: object) -> Config:
    """A small network of the first `count` streams."""
    base = {
        "streams": {name: STREAMS[name] for name in ("audio", "visual", "tactile")[:count]},
        "classes": 4,
        "embed_dim": 16,
        "heads": 2,
        "attention": None,
        "fusion": fusion,
    }
    return Config.model_validate({**base, **more})


def tiny(fusion: Fusion, dim: int = 8) -> Config:
    """Two streams, 8 channels and two classes."""
    return config(fusion, count=2, embed_dim=dim, classes=2)


def features(*values: list[list[float]]) -> dict[str, Tensor]:
    """Features [T, 1, C] of `audio` and `visual`, from the first channels' values by step."""
    padded = [torch.tensor([[*step, *[0.0] * (8 - len(step))] for step in x]) for x in values]
    return dict(zip(("audio", "visual"), (x[:, None] for x in padded), strict=False))


# Each equation by hand


def test_weights_of_the_streams_are_a_softmax_over_those_that_are_present() -> None:
    fusion = WeightedAttention(tiny("weighted"))
    with torch.no_grad():
        for linear, bias in zip(fusion.score.values(), (math.log(3), 0.0), strict=True):
            linear.weight.zero_()
            linear.weight[0, 0] = 1.0
            linear.bias.fill_(bias)
    inputs = features([[0.0, 4.0], [2.0, 8.0]], [[1.0, 2.0], [1.0, 2.0]])
    parts, over_time = fusion(inputs)  # both means have a first channel of 1: 3 e to e
    torch.testing.assert_close(parts["audio"][0, :2], torch.tensor([0.75, 0.75 * 6]))
    torch.testing.assert_close(parts["visual"][0, :2], torch.tensor([0.25, 0.25 * 2]))
    assert over_time is None
    alone, _ = fusion({"visual": inputs["visual"]})
    torch.testing.assert_close(alone["visual"], inputs["visual"].mean(0))


def test_weights_of_the_time_steps_are_the_mean_of_the_attention_over_queries() -> None:
    fusion = TemporalAttention(tiny("taaf"))
    with torch.no_grad():
        for linear, channel in ((fusion.query, 0), (fusion.key, 1)):
            linear.weight.zero_()
            linear.weight[0, channel] = 1.0
    inputs = features([[1.0, 0.0, 5.0], [0.0, 0.0, 7.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    parts, attention = fusion(inputs)  # q = (1, 0), k = (1, 0) of two steps, two classes
    first = math.exp(1 / math.sqrt(2)) / (math.exp(1 / math.sqrt(2)) + 1)
    expected = torch.tensor([[[first, 1 - first], [0.5, 0.5]]])
    torch.testing.assert_close(attention, expected)
    weight = (first + 0.5) / 2
    torch.testing.assert_close(parts["audio"][0, 2], torch.tensor(5 * weight + 7 * (1 - weight)))
    torch.testing.assert_close(parts["visual"][0, 1], torch.tensor(weight))


def currents(fusion: CurrentIntegration, values: dict[str, list[float]]) -> None:
    """Make the currents of each stream its features times a number for each of the channels."""
    fusion.eval()
    with torch.no_grad():
        for name, gains in values.items():
            fusion.current[name].linear.weight.copy_(torch.diag(torch.tensor(gains)))  # type: ignore[union-attr, operator]


def test_currents_of_the_streams_meet_in_one_neuron() -> None:
    fusion = CurrentIntegration(tiny("cmci"))
    # A current of 2 fires at once, of 1.4 at the second step: 0.7, then 0.7 + 0.35 at a decay of
    # a half.
    currents(fusion, {"audio": [1.0] * 8, "visual": [1.0] * 8})
    inputs = features([[1.2, 2.1, 0.7], [1.2, 2.1, 0.7]], [[1.2, 0.0, 0.72], [1.2, 0.0, 0.72]])
    parts, _ = fusion(inputs)
    rates = parts["audio"] + parts["visual"]
    assert rates[0, :4].tolist() == [1.0, 1.0, 0.5, 0.0]
    # Both streams are needed for the first and third channel, the sound alone for the second.
    assert parts["audio"][0, :4].tolist() == [0.5, 1.0, 0.25, 0.0]
    assert parts["visual"][0, :4].tolist() == [0.5, 0.0, 0.25, 0.0]


def test_parts_of_three_streams_are_their_mean_gain_over_all_orders() -> None:
    network = lively(config("cmci"))
    fusion = network.fuse
    assert isinstance(fusion, CurrentIntegration)
    generator = torch.Generator().manual_seed(0)
    inputs = {name: 3 * torch.rand((3, 2, 16), generator=generator) for name in STREAMS}

    def rate(names: set[str]) -> Tensor:
        if not names:
            return torch.zeros(2, 16)
        parts, _ = fusion({name: inputs[name] for name in inputs if name in names})
        return torch.stack(list(parts.values())).sum(0)

    with torch.no_grad():
        parts, _ = fusion(inputs)
        expected = {name: torch.zeros(2, 16) for name in inputs}
        for order in permutations(inputs):
            for index, name in enumerate(order):
                gain = rate({*order[: index + 1]}) - rate({*order[:index]})
                expected[name] += gain / 6
    for name, part in parts.items():
        torch.testing.assert_close(part, expected[name])
    whole = rate({*inputs})
    counts = 3 * whole  # spikes of three steps
    torch.testing.assert_close(counts, counts.round())
    assert len(counts.round().unique()) > 1


def test_a_query_lets_the_key_of_its_token_pass() -> None:
    attention = QueryKeyAttention(config("cmqka", embed_dim=8, heads=2))
    query, key = torch.zeros(2, 1, 8, 3), torch.zeros(2, 1, 8, 3)
    query[0, 0, :2, 0] = 1  # two spikes of the first head: its neuron fires
    query[:, 0, 4, 1] = 1  # one spike of the second head at each step: 0.5, 0.75
    query[0, 0, 4:7, 2] = 1
    key[:, 0, [0, 5]] = 1
    with torch.no_grad():
        passed = attention.passed(query, key)
    expected = torch.zeros(2, 1, 8, 3)
    expected[0, 0, 0, 0] = 1
    expected[0, 0, 5, 2] = 1
    assert torch.equal(passed, expected)


def test_spiking_cross_attention_is_that_of_spikes_without_softmax() -> None:
    network = lively(config("sca", count=2))
    residual = network.residual["audio"]["visual"]  # type: ignore[index]
    assert isinstance(residual, SpikingCrossAttention)
    generator = torch.Generator().manual_seed(0)
    target, source = (
        torch.randint(0, 3, (2, 1, 16, 6), generator=generator).float() for _ in range(2)
    )
    of = residual.attention
    with torch.no_grad():
        spikes, _ = residual(target, source, False)
        q, k, v = of.query(target), of.key(source), of.value(source)
        current = torch.zeros_like(q)
        for head in (slice(0, 8), slice(8, 16)):
            weights = torch.einsum("tbcn,tbcm->tbnm", q[:, :, head], k[:, :, head])
            current[:, :, head] = 0.25 * torch.einsum("tbnm,tbcm->tbcn", weights, v[:, :, head])
        expected = of.out(of.lif(current))
    assert torch.equal(spikes, expected)
    assert spikes.any()


# Properties of every fusion


@pytest.mark.parametrize("fusion", FUSIONS)
def test_terms_of_the_streams_and_the_bias_are_the_logits(fusion: Fusion) -> None:
    network = lively(config(fusion))
    inputs = noise(network.config, steps=3, batch=2)
    with torch.no_grad():
        output = network(inputs, attention=True)
    assert output.logits.shape == (2, 4)
    assert list(output.stream_logits) == list(STREAMS)
    total = torch.stack(list(output.stream_logits.values())).sum(0) + network.head.bias
    torch.testing.assert_close(output.logits, total)
    assert all(term.any() for term in output.stream_logits.values())
    assert output.residuals.keys() == (set(STREAMS) if fusion in ("sca", "cmqka") else set())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_neuron_fires_0_or_1_and_every_weight_has_a_gradient(fusion: Fusion) -> None:
    network = lively(config(fusion)).train()
    spikes: list[Tensor] = []
    neurons = [module for module in network.modules() if isinstance(module, LIF)]
    hooks = [n.register_forward_hook(lambda _, __, x: spikes.append(x.detach())) for n in neurons]
    output = network(noise(network.config, steps=3, batch=4))
    for hook in hooks:
        hook.remove()
    assert len(spikes) >= len(neurons)
    assert all(set(x.unique().tolist()) <= {0.0, 1.0} for x in spikes)
    cross_entropy(output.logits, torch.tensor([0, 1, 2, 3])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    parts = ("fuse.", "residual.")
    own = [p for name, p in network.named_parameters() if name.startswith(parts)]
    assert own
    assert sum(bool(p.grad.any()) for p in own if p.grad is not None) > 0.8 * len(own)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_missing_stream_takes_no_part(fusion: Fusion) -> None:
    network = lively(config(fusion))
    smaller = SCMRL(config(fusion, count=2)).eval()
    weights = network.state_dict()
    smaller.load_state_dict({name: weights[name] for name in smaller.state_dict()})
    inputs = noise(network.config, steps=3, batch=2)
    present = {name: inputs[name] for name in ("audio", "visual")}
    with torch.no_grad():
        actual, expected = network(present, attention=True), smaller(present, attention=True)
        alone = network({"audio": inputs["audio"]}, attention=True)
    torch.testing.assert_close(actual.logits, expected.logits)
    assert set(actual.stream_logits) == set(present)
    torch.testing.assert_close(alone.logits, alone.stream_logits["audio"] + network.head.bias)
    assert alone.residuals == {}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_maps_are_of_the_attention_that_there_is(fusion: Fusion) -> None:
    network = lively(config(fusion))
    with torch.no_grad():
        maps = network(noise(network.config, steps=3, batch=2), attention=True).attention
    assert maps is not None
    if fusion in ("weighted", "cmci"):
        assert maps == {}
        return
    for each in maps.values():
        if fusion == "taaf":
            assert each.spatial is None
            assert each.temporal is not None
            torch.testing.assert_close(each.temporal.sum(2), torch.ones(2, 3))
        else:
            assert each.temporal is None
            assert each.spatial is not None
            assert each.spatial.shape == (2, 2, 3)
            torch.testing.assert_close(each.spatial.sum((1, 2)), torch.ones(2))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_engine_runs_it_on_the_plain_path_and_says_why(
    fusion: Fusion, caplog: pytest.LogCaptureFixture
) -> None:
    network = lively(config(fusion))
    inputs = noise(network.config, steps=3, batch=3)
    engine = Engine(network, "cpu", threads=1)
    with caplog.at_level("INFO", "scmrl.engine"):
        assert not engine.fuse()
    assert f"computed for S-CMRL alone, and this is fusion {fusion}" in caplog.text
    assert engine.path == "plain"
    with torch.no_grad():
        expected = network(inputs).logits
    whole = engine.run(inputs, explain=("attention", "operations"))
    torch.testing.assert_close(whole.logits, expected)
    one = engine.run({name: x[:, 1:2] for name, x in inputs.items()})
    torch.testing.assert_close(one.logits, expected[1:2])  # alone as in a batch
    assert whole.operations is not None
    of_fusion = [name for name in whole.operations if name.startswith(("fuse", "residual."))]
    assert of_fusion
    assert all(float(whole.operations[name].energy_pj.sum()) > 0 for name in of_fusion)


def test_the_mlp_counts_the_spikes_of_the_residuals() -> None:
    for fusion in ("sca", "cmqka"):
        network = lively(config(fusion, count=2))  # type: ignore[arg-type]
        inputs = noise(network.config, steps=2, batch=1)
        both = count_operations(network, inputs, 2)
        alone = count_operations(network, {"audio": inputs["audio"]}, 2)
        expand = "mlp.audio.expand"
        out = next(name for name in both if name.startswith("residual.audio") and "out" in name)
        rate = both[out].firing_rate
        assert rate is not None
        spikes = float(rate) * 2 * 16 * 6
        gained = both[expand].accumulates - alone[expand].accumulates
        torch.testing.assert_close(float(gained), spikes * 64, rtol=1e-4, atol=1e-2)


def test_an_unusable_configuration_says_what_would_be_accepted() -> None:
    with pytest.raises(ValueError, match=r"fusion sca takes the place .* attention must be null"):
        config("sca", attention="spatial")
    uneven = {**STREAMS, "tactile": StreamConfig(channels=1, size=(8, 8), splitting="shallow")}
    with pytest.raises(ValueError, match=r"cmqka attention pairs tokens .*'tactile': 4"):
        config("cmqka", streams=uneven)
    many = {f"s{i}": STREAMS["audio"] for i in range(MAX_CMCI_STREAMS + 1)}
    with pytest.raises(ValueError, match="fusion cmci: 7 streams; can be at most 6"):
        config("cmci", streams=many)
    assert set(FUSIONS).isdisjoint(SCMRL_FUSIONS)


def test_of_one_stream_there_is_nothing_to_fuse() -> None:
    for fusion in FUSIONS:
        network = lively(config(fusion, count=1))
        assert network.config.fuses_as_scmrl
        assert network.fuse is None
        assert len(network.blocks) == 1


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_card_names_it(fusion: Fusion, tmp_path: Path) -> None:
    changed = {**CONFIG.model_dump(), "fusion": fusion, "attention": None}
    save(tmp_path, config=Config.model_validate(changed))
    network, card = checkpoint.load(tmp_path)
    assert card.config.fusion == fusion
    inputs = noise(card.config, steps=1, batch=1)
    with torch.no_grad():
        assert torch.equal(network(inputs).logits, lively(card.config)(inputs).logits)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_tokens_have_logits_where_the_terms_are_sums_over_tokens(fusion: Fusion) -> None:
    network = lively(config(fusion))
    with torch.no_grad():
        output = network(noise(network.config, steps=2, batch=2), attention=True)
    if fusion in ("weighted", "cmci", "taaf"):
        assert output.token_logits == {}
        return
    for name, logits in output.token_logits.items():
        torch.testing.assert_close(logits.sum((1, 2)), output.stream_logits[name])
