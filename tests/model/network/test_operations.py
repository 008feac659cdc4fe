"""Operations are counted from the spikes: compared with loops, and with invariants."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter
from torch import Tensor, nn

from model.config import Config, StreamConfig
from model.engine import Engine
from model.network import LayerOperations
from model.network.attention import Projection
from model.network.operations import count_operations
from model.network.patch import Stage
from tests.model.networks import lively, noise

CONFIG = Config(
    streams={
        "audio": StreamConfig(channels=1, size=(32, 48)),
        "visual": StreamConfig(channels=3, size=(32, 48)),
    },
    classes=5,
    embed_dim=16,
    heads=4,
    alpha=0.5,
)
STEPS = 3


def total(layers: dict[str, LayerOperations]) -> float:
    return float(sum(layer.energy_pj.sum() for layer in layers.values()))


@pytest.fixture(scope="module")
def counted() -> tuple[dict[str, LayerOperations], dict[str, Tensor]]:
    """Operations of a batch of two, and what the modules put out."""
    network = lively(CONFIG)
    recorded: dict[str, Tensor] = {}

    def see(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        recorded.update({name: output, f"{name} in": inputs[0]})

    hooks = [
        module.register_forward_hook(partial(see, name))
        for name, module in network.named_modules()
        if name.count(".") > 0
    ]
    layers = count_operations(network, noise(CONFIG, steps=STEPS, batch=2), STEPS)
    for hook in hooks:
        hook.remove()
    assert not any(module._forward_hooks for module in network.modules())
    return layers, recorded


def test_every_layer_with_weights_is_counted(
    counted: tuple[dict[str, LayerOperations], dict[str, Tensor]],
) -> None:
    layers, _ = counted
    network = lively(CONFIG)
    weighted = {name.rsplit(".", 1)[0] for name, parameter in network.named_parameters()
                if parameter.dim() > 1}  # fmt: skip
    names = {name.removesuffix(".conv") for name in weighted}
    assert names <= set(layers)
    for name, layer in layers.items():
        assert layer.accumulates.shape == layer.multiply_accumulates.shape == (2,)
        assert not ((layer.accumulates > 0) & (layer.multiply_accumulates > 0)).any(), name
    real = {name for name, layer in layers.items() if layer.multiply_accumulates.all()}
    firsts = {"patch.audio.stages.0", "patch.visual.stages.0"}
    assert {name for name in real if name.startswith("patch")} == firsts
    assert sum(bool(layer.accumulates.all()) for layer in layers.values()) > 20


def test_a_convolution_adds_a_weight_for_each_spike_and_target(
    counted: tuple[dict[str, LayerOperations], dict[str, Tensor]],
) -> None:
    layers, recorded = counted
    name = "patch.visual.stages.1"
    spikes = recorded[f"{name} in"]  # [T, B, C, H, W]
    _, _, _, height, width = spikes.shape
    channels_out = recorded[name].shape[2]
    for clip in range(2):
        expected = 0
        for _, _, y, x in spikes[:, clip].nonzero().tolist():
            rows = min(y + 1, height - 1) - max(y - 1, 0) + 1
            columns = min(x + 1, width - 1) - max(x - 1, 0) + 1
            expected += rows * columns * channels_out
        assert layers[name].accumulates[clip] == expected
    assert layers[name].dense == height * width * spikes.shape[2] * channels_out * 9
    assert layers[name].firing_rate is not None
    torch.testing.assert_close(layers[name].firing_rate, recorded[name].mean((0, 2, 3, 4)))


def test_spikingjelly_counts_the_same_where_its_counter_fits(
    counted: tuple[dict[str, LayerOperations], dict[str, Tensor]],
) -> None:
    """It takes inputs of 0 and 1 alone: not tokens of several spikes, nor attention, whose weights
    are no spikes."""
    layers, recorded = counted
    compared = 0
    for name, module in lively(CONFIG).named_modules():
        if not isinstance(module, Stage | Projection) or not name.startswith(("patch", "residual")):
            continue
        x = recorded[f"{name} in"].contiguous()
        if not ((x == 0) | (x == 1)).all():
            continue
        counter = SynOpCounter()
        with torch.no_grad(), DispatchCounterMode([counter]):
            module.conv(x.flatten(0, 1))
        assert counter.get_total() == layers[name].accumulates.sum(), name
        compared += counter.get_total() > 0
    assert compared >= 8


def test_tokens_count_as_their_spikes(
    counted: tuple[dict[str, LayerOperations], dict[str, Tensor]],
) -> None:
    layers, recorded = counted
    name = "residual.audio.visual.attention.spatial.query"
    tokens = recorded["patch.audio"]
    assert tokens.max() == 2
    assert torch.equal(layers[name].accumulates, tokens.sum((0, 2, 3)).double() * 16)


def test_the_mlp_adds_weights_for_tokens_and_for_residuals(
    counted: tuple[dict[str, LayerOperations], dict[str, Tensor]],
) -> None:
    layers, recorded = counted
    residual = recorded["residual.audio.visual"][0]  # type: ignore[index]
    assert residual.sum() > 0
    spikes = (recorded["patch.audio"] + residual).sum((0, 2, 3)).double()
    assert torch.equal(layers["mlp.audio.expand"].accumulates, spikes * 64)


def test_attention_counts_coincidences_and_sums_of_values(
    counted: tuple[dict[str, LayerOperations], dict[str, Tensor]],
) -> None:
    layers, recorded = counted
    name = "residual.visual.audio.attention.spatial"
    q, k, v = (recorded[f"{name}.{part}"] for part in ("query", "key", "value"))  # [T, B, C, N]
    expected = 0
    for step in range(STEPS):
        for head in range(4):
            a, b, c = (x[step, 0, 4 * head : 4 * head + 4].T for x in (q, k, v))  # [N, d]
            for row in a:
                weights = (row * b).sum(1)
                expected += int(weights.sum() + c[weights > 0].sum())
    assert layers[name].accumulates[0] == expected


def test_a_held_frame_passes_the_first_convolution_once() -> None:
    network = lively(CONFIG)
    one_frame = noise(CONFIG, steps=1, batch=1)
    moving = {name: x.repeat(STEPS, 1, 1, 1, 1) for name, x in one_frame.items()}
    once, often = (count_operations(network, x, STEPS) for x in (one_frame, moving))
    first = "patch.audio.stages.0"
    assert often[first].multiply_accumulates == STEPS * once[first].multiply_accumulates
    assert total(once) < total(often)
    others = [name for name in once if not name.endswith("stages.0")]
    assert all(torch.equal(once[name].accumulates, often[name].accumulates) for name in others)


@pytest.mark.parametrize(
    "change",
    [
        {"attention": None},
        {"attention": "spatial", "alignment": False},
        {"attention": "temporal"},
        {"alignment": False},
        {"fusion": "concat"},
        {"streams": {"audio": CONFIG.streams["audio"]}},
    ],
)
def test_every_variant_is_counted(change: dict[str, object]) -> None:
    config = Config.model_validate({**CONFIG.model_dump(), **change})
    layers = count_operations(lively(config), noise(config, steps=2, batch=1), 2)
    assert total(layers) > 0


def test_the_engine_counts_each_sample_of_a_batch_on_any_path() -> None:
    network = lively(CONFIG)
    inputs = noise(CONFIG, steps=STEPS, batch=3)
    expected = count_operations(network, inputs, STEPS)
    engine = Engine(network, "cpu", max_batch=2)
    engine.fuse()
    output = engine.run(inputs, STEPS, explain=("operations",))
    assert output.operations is not None
    assert output.operations.keys() == expected.keys()
    for name, layer in output.operations.items():
        assert torch.equal(layer.accumulates, expected[name].accumulates), name
    assert engine.run(inputs, STEPS).operations is None
