"""The whole network against its equations (tests/data/golden), and further properties."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d

from model.config import Config, StreamConfig
from model.network import SCMRL, Output
from model.network.alignment_loss import alignment_loss
from model.network.neuron import LIF
from tests.model.make_golden import FOLDER, UNIT, VARIANTS
from tests.model.networks import lively, noise


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small wait longer for a second thread than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Case:
    """A golden case, run through our network. `spikes` by the name of our neuron, [T, B, ...]."""

    golden: dict[str, Tensor]
    network: SCMRL
    inputs: dict[str, Tensor]
    output: Output
    spikes: dict[str, Tensor]

    def named(self, kind: str) -> dict[str, Tensor]:
        """The golden entries `kind`.NAME by NAME."""
        return part(self.golden, kind)


def part(content: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {n.removeprefix(f"{kind}."): x for n, x in content.items() if n.startswith(f"{kind}.")}


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest) -> Case:
    config, golden = read(FOLDER / f"{request.param}.safetensors")
    network = SCMRL(config).eval()
    network.load_state_dict(
        {n: x.to(state(network)[n]) for n, x in part(golden, "weights").items()}
    )
    steps = int(golden["steps"])
    inputs = {
        name: (x.float() / UNIT).expand(steps, *x.shape[1:])
        for name, x in part(golden, "inputs").items()
    }
    spikes: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, a, layer_output, name=name: spikes.__setitem__(name, layer_output)
        )
        for name, module in network.named_modules()
        if isinstance(module, LIF)
    ]
    with torch.no_grad():
        output = network(inputs, attention=True)
    for hook in hooks:
        hook.remove()
    return Case(golden, network, inputs, output, spikes)


def read(file: Path) -> tuple[Config, dict[str, Tensor]]:
    with safe_open(file, framework="pt") as content:
        config = Config.model_validate_json(content.metadata()["config"])
        names = content.keys()
        return config, {name: content.get_tensor(name) for name in names}


def state(network: SCMRL) -> dict[str, Tensor]:
    return dict(network.state_dict())


# --- golden cases ------------------------------------------------------------------------------


def test_every_variant_has_its_case() -> None:
    assert {file.stem for file in FOLDER.glob("*.safetensors")} == set(VARIANTS)
    for name, (config, steps, _) in VARIANTS.items():
        written, golden = read(FOLDER / f"{name}.safetensors")
        assert written == config
        assert int(golden["steps"]) == steps


@pytest.mark.slow
def test_every_spike_is_that_of_the_equations(case: Case) -> None:
    recorded = case.named("spikes")
    assert recorded.keys() == case.spikes.keys()
    for name, layer_spikes in case.spikes.items():
        bits = np.unpackbits(recorded[name].numpy(), count=layer_spikes.numel())
        expected = torch.from_numpy(bits).reshape(layer_spikes.shape).float()
        assert 0 < expected.mean() < 1
        differing = int((layer_spikes != expected).sum())
        assert differing == 0, f"{name}: {differing} of {layer_spikes.numel()} spikes differ"


def test_logits_are_those_of_the_equations(case: Case) -> None:
    logits = case.golden["logits"].float()
    assert (case.output.logits - logits).abs().max() <= 1e-4 * logits.abs().max()


def test_residuals_are_those_of_the_equations(case: Case) -> None:
    recorded = case.named("residuals")
    assert recorded.keys() == case.output.residuals.keys()
    for name, residual in recorded.items():
        assert residual.any()
        actual = case.output.residuals[name].double()
        torch.testing.assert_close(actual, residual, rtol=1e-6, atol=1e-6)


def test_maps_are_those_of_the_equations(case: Case) -> None:
    actual = case.output.attention
    assert actual is not None
    spatial, temporal = case.named("spatial"), case.named("temporal")
    assert {n for n, maps in actual.items() if maps.spatial is not None} == set(spatial)
    assert {n for n, maps in actual.items() if maps.temporal is not None} == set(temporal)
    assert actual.keys() == spatial.keys() | temporal.keys()
    for name, maps in actual.items():
        if maps.spatial is not None:
            assert maps.spatial.shape[1:] == case.network.config.streams[name].grid
            torch.testing.assert_close(maps.spatial.sum((1, 2)), torch.ones(len(maps.spatial)))
            torch.testing.assert_close(maps.spatial.double(), spatial[name], rtol=1e-5, atol=1e-7)
        if maps.temporal is not None:
            torch.testing.assert_close(maps.temporal.double(), temporal[name], rtol=1e-5, atol=1e-7)


def test_a_streams_firing_rate_is_the_mean_of_the_spikes_that_make_its_tokens(case: Case) -> None:
    rates = case.output.firing_rates
    assert list(rates) == list(case.network.config.streams)
    for name, rate in rates.items():
        last = len(case.network.patch[name].stages) - 1  # type: ignore[arg-type]
        stage_spikes = case.spikes[f"patch.{name}.stages.{last}.lif"]
        pooled = max_pool2d(stage_spikes.flatten(0, 1), 3, 2, 1).unflatten(
            0, stage_spikes.shape[:2]
        )
        both = torch.stack([pooled, case.spikes[f"patch.{name}.position.lif"]])
        torch.testing.assert_close(rate, both.mean((0, 1, 3, 4, 5)), rtol=0, atol=1e-6)
        assert ((rate > 0) & (rate < 1)).all()


def test_logits_are_the_sum_of_the_streams_shares_and_the_bias(case: Case) -> None:
    shares, bias = case.output.stream_logits, case.network.head.bias.detach()
    assert list(shares) == list(case.network.config.streams)
    total = sum(shares.values(), torch.zeros_like(case.output.logits)) + bias
    torch.testing.assert_close(total, case.output.logits, rtol=1e-6, atol=1e-6)


def test_a_streams_share_is_what_its_own_features_give_the_head(case: Case) -> None:
    """With every other stream's features set to nothing, the head gives its share and the bias."""
    network, config = case.network, case.network.config
    for name, share in case.output.stream_logits.items():
        silent = [network.mlp[other] for other in config.streams if other != name]
        hooks = [
            mlp.register_forward_hook(lambda _, a, mlp_output: mlp_output * 0) for mlp in silent
        ]
        with torch.no_grad():
            alone = network(case.inputs).logits
        for hook in hooks:
            hook.remove()
        assert share.any()
        torch.testing.assert_close(share + network.head.bias.detach(), alone, rtol=1e-5, atol=1e-5)


def test_a_gradient_reaches_every_parameter(case: Case) -> None:
    network = lively(case.network.config)
    network.load_state_dict(case.network.state_dict())
    labels = torch.tensor([0, 1])
    output = network(case.inputs)
    loss = cross_entropy(output.logits, labels) + alignment_loss(output.residuals, labels)
    loss.backward()
    silent = [n for n, x in network.named_parameters() if x.grad is None or not x.grad.any()]
    assert silent == []
    assert all(x.grad.isfinite().all() for x in network.parameters() if x.grad is not None)


# --- streams -----------------------------------------------------------------------------------

TWO = {
    "audio": StreamConfig(channels=1, size=(8, 12), splitting="shallow"),
    "visual": StreamConfig(channels=3, size=(8, 12), splitting="shallow"),
}
TACTILE = StreamConfig(channels=2, size=(8, 12), splitting="shallow")


def small(streams: dict[str, StreamConfig], **more: object) -> Config:
    base = {"streams": streams, "classes": 4, "embed_dim": 16, "heads": 2, "mlp_ratio": 2.0}
    return Config.model_validate({**base, **more})


def three(**more: object) -> SCMRL:
    return lively(small({**TWO, "tactile": TACTILE}, **more))


def without(network: SCMRL, names: tuple[str, ...]) -> SCMRL:
    """The same weights in a network that never had the other streams."""
    config = network.config
    smaller = SCMRL(config.model_copy(update={"streams": {n: config.streams[n] for n in names}}))
    weights = state(network)
    if config.fusion == "concat":
        pieces = weights["head.weight"].split(config.embed_dim, 1)
        by_name = dict(zip(config.streams, pieces, strict=True))
        weights["head.weight"] = torch.cat([by_name[name] for name in names], 1)
    smaller.load_state_dict({name: weights[name] for name in state(smaller)})
    return smaller.eval()


@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_a_missing_stream_is_as_if_the_network_never_had_it(fusion: str) -> None:
    network = three(fusion=fusion)
    inputs = noise(network.config, steps=4, batch=2)
    for names in combinations(inputs, 2):
        present = {name: inputs[name] for name in names}
        with torch.no_grad():
            actual = network(present, attention=True)
            expected = without(network, names)(present, attention=True)
        torch.testing.assert_close(actual.logits, expected.logits)
        assert actual.residuals.keys() == set(names)
        assert actual.attention is not None
        for name in names:
            assert torch.equal(actual.residuals[name], expected.residuals[name])
            assert torch.equal(actual.attention[name].spatial, expected.attention[name].spatial)


@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_one_stream_alone_answers_without_residual_or_map(fusion: str) -> None:
    network = three(fusion=fusion)
    for name, x in noise(network.config, steps=4, batch=2).items():
        with torch.no_grad():
            output = network({name: x}, attention=True)
        assert set(output.stream_logits) == {name}
        total = output.stream_logits[name] + network.head.bias
        torch.testing.assert_close(output.logits, total)
        assert output.residuals == {}
        assert output.attention == {}


def test_streams_answer_in_the_networks_order_whatever_the_inputs() -> None:
    network = three(fusion="concat")
    inputs = noise(network.config, steps=3, batch=2)
    turned = dict(reversed(inputs.items()))
    with torch.no_grad():
        first, second = network(inputs), network(turned)
    assert torch.equal(first.logits, second.logits)
    assert list(second.residuals) == ["audio", "visual", "tactile"]


def test_an_unknown_stream_is_named() -> None:
    network = lively(small(TWO))
    inputs = noise(network.config, steps=2, batch=1)
    with pytest.raises(ValueError, match=r"'smell'.*'audio', 'visual'"):
        network({**inputs, "smell": inputs["audio"]})


def test_no_stream_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one or more of \['audio', 'visual'\] are needed"):
        lively(small(TWO))({})


@pytest.mark.slow
@pytest.mark.parametrize("names", [("audio",), ("audio", "visual"), ("audio", "visual", "tactile")])
def test_any_number_of_streams_learns_by_configuration_alone(names: tuple[str, ...]) -> None:
    """Sixteen clips of noise with random labels are learnt by heart, and every parameter moves."""
    streams = {name: {**TWO, "tactile": TACTILE}[name] for name in names}
    network = lively(small(streams)).train()
    before = {name: x.detach().clone() for name, x in network.named_parameters()}
    inputs = noise(network.config, steps=3, batch=16)
    labels = torch.from_numpy(np.random.RandomState(0).randint(0, 4, 16))
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=0)
    entropies, losses = [], []
    for _ in range(20):
        output = network(inputs)
        entropy = cross_entropy(output.logits, labels)
        loss = entropy + alignment_loss(output.residuals, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        entropies.append(entropy.item())
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3]), losses
    assert np.mean(entropies[-3:]) < 0.6 * np.mean(entropies[:3]), entropies
    still = [name for name, x in network.named_parameters() if torch.equal(x, before[name])]
    assert still == []


# --- time steps --------------------------------------------------------------------------------


def test_any_number_of_steps_can_be_asked_for() -> None:
    network = three()
    for steps in (1, 2, 5, 32):
        with torch.no_grad():
            output = network(noise(network.config, steps=steps, batch=2), attention=True)
        assert output.logits.isfinite().all()
        assert output.attention is not None
        for name, residual in output.residuals.items():
            assert residual.shape == (steps, 2, 16)
            temporal = output.attention[name].temporal
            assert temporal is not None
            assert temporal.shape == (2, steps, steps)


def test_with_spatial_attention_later_steps_change_nothing_before_them() -> None:
    network = three(attention="spatial")
    inputs = noise(network.config, steps=6, batch=2)
    with torch.no_grad():
        whole = network(inputs)
        first = network({name: x[:3] for name, x in inputs.items()})
    for name, residual in first.residuals.items():
        assert residual.any()
        assert torch.equal(whole.residuals[name][:3], residual)
    assert not torch.equal(whole.logits, first.logits)


def test_a_held_frame_answers_as_its_repetition() -> None:
    network = three()
    frames = noise(network.config, steps=1, batch=2)
    with torch.no_grad():
        expanded = network({name: x.expand(5, -1, -1, -1, -1) for name, x in frames.items()})
        repeated = network({name: x.repeat(5, 1, 1, 1, 1) for name, x in frames.items()})
    assert expanded.residuals["audio"].any()
    torch.testing.assert_close(expanded.logits, repeated.logits)


# --- the rest ----------------------------------------------------------------------------------


def test_maps_come_only_where_they_are_asked_for_and_change_no_answer() -> None:
    network = three()
    inputs = noise(network.config, steps=3, batch=2)
    with torch.no_grad():
        plain, with_maps = network(inputs), network(inputs, attention=True)
    assert plain.attention is None
    assert plain.token_logits == {}
    assert with_maps.attention is not None
    assert torch.equal(plain.logits, with_maps.logits)


@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_the_logits_of_tokens_add_up_to_their_streams_term(fusion: str) -> None:
    network = three(fusion=fusion)
    inputs = noise(network.config, steps=3, batch=2)
    for present in (inputs, {"visual": inputs["visual"]}):
        with torch.no_grad():
            output = network(present, attention=True)
        assert output.token_logits.keys() == present.keys()
        for name, logits in output.token_logits.items():
            grid = network.config.streams[name].grid
            assert logits.shape == (2, *grid, network.config.classes)
            torch.testing.assert_close(logits.sum((1, 2)), output.stream_logits[name])


def test_the_logits_of_a_token_are_the_heads_of_this_token() -> None:
    """Each is the head of the token's mean over time, in the token's place of the grid."""
    network = three()
    tokens = {}
    for name, mlp in network.mlp.items():
        mlp.register_forward_hook(lambda _, a, x, name=name: tokens.__setitem__(name, x))
    with torch.no_grad():
        output = network(noise(network.config, steps=3, batch=2), attention=True)
    for name, x in tokens.items():
        rows, columns = network.config.streams[name].grid
        for row, column in product(range(rows), range(columns)):
            own = x[:, :, :, row * columns + column].mean(0)  # [B, C]
            expected = own @ network.head.weight.T / (rows * columns)
            torch.testing.assert_close(output.token_logits[name][:, row, column], expected)


def test_a_map_of_silence_is_nothing_and_not_nan() -> None:
    network = lively(small(TWO))
    for name, x in network.named_parameters():
        if name.endswith(("query.norm.bias", "key.norm.bias")):
            torch.nn.init.constant_(x, -100)
    with torch.no_grad():
        attention = network(noise(network.config, steps=3, batch=2), attention=True).attention
    assert attention is not None
    for maps in attention.values():
        assert maps.spatial is not None
        assert maps.temporal is not None
        assert not maps.spatial.any()
        assert not maps.temporal.any()


def test_alpha_weighs_the_residual() -> None:
    """At 0 the network is that without cross-modal attention."""
    network = lively(small(TWO, alpha=0.0))
    plain = SCMRL(small(TWO, attention=None)).eval()
    plain.load_state_dict({name: state(network)[name] for name in state(plain)})
    inputs = noise(network.config, steps=3, batch=2)
    heavy = SCMRL(small(TWO, alpha=1.5)).eval()
    heavy.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(network(inputs).logits, plain(inputs).logits)
        assert not torch.equal(heavy(inputs).logits, plain(inputs).logits)


def test_a_new_network_starts_as_published() -> None:
    torch.manual_seed(0)
    network = SCMRL(small(TWO, embed_dim=64))
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 3  # the head, and each residual's alignment
    for linear in linears:
        assert not linear.bias.any()
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.2)
    thresholds = {n: x for n, x in network.state_dict().items() if n.endswith("threshold")}
    assert len(thresholds) == sum(isinstance(m, LIF) for m in network.modules())
    assert set(map(float, thresholds.values())) == {1.0}
