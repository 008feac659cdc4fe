"""Our network against what the published implementation computes (../shared/golden)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.checkpoint import import_published, import_published_file
from model.config import Config, StreamConfig
from model.network import SCMRL, Output
from model.network.alignment_loss import alignment_loss
from model.network.attention import SCALE

CASES = (
    "crema_d_64",
    "mnistdvs_ntidigits_32",
    "small_concat",
    "small_nocontrastive",
    "small_nocross",
    "small_spatial",
    "small_spatiotemporal",
    "small_temporal",
    "unimodal_audio",
    "unimodal_visual",
    "urbansound8k_av",
)
_ATTENTION = {"Spatial": "spatial", "Temporal": "temporal", "SpatialTemporal": "spatial-temporal"}

#: Their neurons in an attention, and ours.
_NEURONS = {"q_lif": "query.lif", "k_lif": "key.lif", "v_lif": "value.lif", "attn_lif": "lif"}


@dataclass(frozen=True)
class Case:
    """A golden case, run through our network. `recorded`: output of each of our modules."""

    golden: dict[str, Tensor]
    network: SCMRL
    inputs: dict[str, Tensor]
    output: Output
    recorded: dict[str, Tensor]

    def ours(self, published: str) -> Tensor:
        """Return our counterpart of the published activation `act.<published>`."""
        if published == "head.in":
            return self._head_in()
        ours = our_names(self.network.config)
        name, _, piece = published.partition(".qk")
        if published == name:
            return self.recorded[ours[name]]
        qk = self._products(ours[name])
        if ".b0" in piece:
            qk = qk[:, :1]
        return qk[:8] if ".t8" in piece else qk

    def _head_in(self) -> Tensor:
        config = self.network.config
        single = len(config.streams) == 1
        last = ["blocks.0"] if single else [f"mlp.{name}" for name in config.streams]
        pooled = [self.recorded[name].mean((0, 3)) for name in last]
        return torch.cat(pooled, 1) if config.fusion == "concat" else torch.stack(pooled).sum(0)

    def _products(self, attention: str) -> Tensor:
        """q k^T: spatial [T, B, heads, N, N], temporal [N, B, heads, T, T]."""
        q, k = (
            self.recorded[f"{attention}.{name}.lif"].unflatten(2, (self.network.config.heads, -1))
            for name in ("query", "key")
        )
        axes = "tbhcn,sbhcn->nbhts" if attention.endswith("temporal") else "tbhcn,tbhcm->tbhnm"
        return torch.einsum(axes, q, k)


def our_names(config: Config) -> dict[str, str]:
    """Our module for each published one whose output is recorded; `.input`: what it was given."""
    if len(config.streams) == 1:
        (stream,) = config.streams
        return {
            "patch_embed": f"patch.{stream}",
            "block.0": "blocks.0",
            "block.0.mlp": "blocks.0.mlp.contract",
            **_attention_names("block.0.attn", "blocks.0.attention"),
        }
    names: dict[str, str] = {}
    for i, (target, source) in enumerate((("audio", "visual"), ("visual", "audio"))):
        residual = f"residual.{target}.{source}"
        names |= {
            f"{target}_patch_embed": f"patch.{target}",
            f"block.{i}.branch": residual,
            f"block.{i}.x": f"mlp.{target}.input",
            f"mlp.{i}": f"mlp.{target}",
            f"mlp.{i}.mlp": f"mlp.{target}.contract",
        }
        if config.attention == "spatial-temporal":
            names[f"block.{i}.attn"] = f"{residual}.attention"
            for kind in ("spatial", "temporal"):
                names |= _attention_names(
                    f"block.{i}.attn.{kind}_attn", f"{residual}.attention.{kind}"
                )
        else:
            names |= _attention_names(f"block.{i}.attn", f"{residual}.attention.{config.attention}")
    return names


def _attention_names(theirs: str, ours: str) -> dict[str, str]:
    neurons = {f"{theirs}.{their}": f"{ours}.{our}" for their, our in _NEURONS.items()}
    return {theirs: ours, **neurons}


def published_config(options: dict[str, Any]) -> Config:
    """The configuration of a golden case's meta.json."""
    size = (options["img_hw"], options["img_hw"])
    splitting = "shallow" if options["shallow_sps"] else "deep"
    channels = options["in_channels_visual_or_single"]
    both = {"audio": 1, "visual": channels}
    streams = both if options["modality"] == "audio-visual" else {options["modality"]: channels}
    return Config(
        streams={
            name: StreamConfig(channels=count, size=size, splitting=splitting)
            for name, count in streams.items()
        },
        classes=options["num_classes"],
        embed_dim=options["embed_dims"],
        heads=options["num_heads"],
        mlp_ratio=options["mlp_ratio"],
        attention=_ATTENTION[options["attn_method"]] if options["cross_attn"] else None,
        alignment=options["contrastive"],
        alpha=options["alpha"],
        fusion=options["interaction"].lower(),
        depth=options["depths"],
    )


def _config(folder: Path) -> tuple[Config, int]:
    options = json.loads((folder / "meta.json").read_text())["config"]
    return published_config(options), options["step"]


def _inputs(file: Path, steps: int) -> dict[str, Tensor]:
    """[B, T or 1, C, H, W] as stored, to [T, B, C, H, W]."""
    tensors = {name: x.float().transpose(0, 1) for name, x in load_file(file).items()}
    return {name: x.expand(steps, *x.shape[1:]) for name, x in tensors.items()}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    folder = shared / "golden" / request.param
    config, steps = _config(folder)
    network = import_published(load_file(folder / "state_dict.safetensors"), config)
    inputs = _inputs(folder / "inputs.safetensors", steps)
    activations: dict[str, Tensor] = {}

    def record(name: str, _: nn.Module, layer_inputs: Any, layer_output: Any) -> None:
        activations[name] = layer_output[0] if isinstance(layer_output, tuple) else layer_output
        activations[f"{name}.input"] = layer_inputs[0]

    hooks = [m.register_forward_hook(partial(record, n)) for n, m in network.named_modules() if n]
    with torch.inference_mode():
        output = network(inputs, attention=True)
    for hook in hooks:
        hook.remove()
    golden = load_file(folder / "golden.safetensors")
    return Case(golden, network, inputs, output, activations)


def test_every_case_is_tested(shared: Path) -> None:
    published = {path.parent.name for path in shared.glob("golden/*/state_dict.safetensors")}
    assert published == set(CASES)


def test_no_recorded_activation_differs(case: Case) -> None:
    names = [name.removeprefix("act.") for name in case.golden if name.startswith("act.")]
    assert len(names) >= 7
    for name in names:
        recorded = case.golden[f"act.{name}"].float()
        actual = case.ours(name)
        if name == "head.in":
            torch.testing.assert_close(actual, recorded, rtol=1e-6, atol=1e-6)
            continue
        differing = int((actual.reshape(recorded.shape) != recorded).sum())
        assert differing == 0, f"{name}: {differing} of {recorded.numel()} values differ"


def test_logits_and_features_agree(case: Case) -> None:
    logits = case.golden["logits"]
    assert (case.output.logits - logits).abs().max() <= 1e-4 * logits.abs().max()
    torch.testing.assert_close(case.output.logits, logits, rtol=1e-4, atol=2e-5)
    features = {n.removesuffix("_feature"): x for n, x in case.golden.items() if "feature" in n}
    assert case.output.residuals.keys() == features.keys()
    for name, feature in features.items():
        torch.testing.assert_close(case.output.residuals[name], feature, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "case", [name for name in CASES if name.startswith(("small_s", "small_t"))], indirect=True
)
def test_attention_maps_are_means_of_the_published_products(case: Case) -> None:
    """The published q k^T of `block.0` looks from audio at visual; `block.1` the other way."""
    assert case.output.attention is not None
    compared = 0
    for index, source in enumerate(("visual", "audio")):
        maps = case.output.attention[source]
        for name, qk in case.golden.items():
            if not name.startswith(f"act.block.{index}.attn") or not name.endswith(".qk"):
                continue
            compared += 1
            if qk.shape[-1] == 4:  # T x T over steps, for each token
                expected = SCALE * qk.float().mean((0, 2))
                torch.testing.assert_close(maps.temporal, expected)
                continue
            looked = qk.float().mean((0, 2, 3))
            shares = (looked / looked.sum(1, keepdim=True)).unflatten(1, (4, 4))
            torch.testing.assert_close(maps.spatial, shares)
    assert compared >= 2


def test_checkpoint_file_as_the_published_training_writes_it(shared: Path) -> None:
    folder = shared / "golden" / "urbansound8k_av"
    config, steps = _config(folder)
    network = import_published_file(shared / "golden" / "model_best.pth.tar", config)
    with torch.inference_mode():
        output = network(_inputs(shared / "golden" / "model_best.inputs.safetensors", steps))
    logits = load_file(folder / "golden.safetensors")["logits"]
    assert (output.logits - logits).abs().max() <= 1e-4 * logits.abs().max()


# --- training ------------------------------------------------------------------------------


def test_losses_agree(shared: Path) -> None:
    losses = json.loads((shared / "golden" / "training" / "losses.json").read_text())
    assert len(losses) == 30
    for key, value in losses.items():
        name, labels_text, kind = key.split("|")
        golden = load_file(shared / "golden" / name / "golden.safetensors")
        labels = torch.tensor(json.loads(labels_text.removeprefix("labels=")))
        if kind.startswith("tau="):
            residuals = {s: golden[f"{s}_feature"] for s in ("audio", "visual")}
            loss = alignment_loss(residuals, labels, float(kind.removeprefix("tau=")))
        else:
            loss = cross_entropy(golden["logits"], labels, label_smoothing=0.1)
        assert abs(loss.item() - value) <= 1e-5, key


def test_gradients_agree(shared: Path) -> None:
    folder = shared / "golden" / "training"
    reference = json.loads((folder / "grads_small_spatiotemporal.json").read_text())
    published = load_file(folder / "grads_small_spatiotemporal.safetensors")
    case = shared / "golden" / "small_spatiotemporal"
    config, steps = _config(case)
    network = import_published(load_file(case / "state_dict.safetensors"), config)
    labels = torch.tensor(reference["labels"])

    output = network(_inputs(case / "inputs.safetensors", steps))  # in eval mode: reference["bn"]
    entropy = cross_entropy(output.logits, labels, label_smoothing=reference["smoothing"])
    aligned = alignment_loss(output.residuals, labels, reference["temperature"])
    (entropy + aligned).backward()

    assert abs(entropy.item() - reference["ce"]) <= 1e-5
    assert abs(aligned.item() - reference["contrastive"]) <= 1e-5
    ours = {name: x.grad for name, x in network.named_parameters()}
    assert len(published) == len(ours) == 100
    for name, expected in published.items():
        gradient = ours.pop(_parameter(name))
        assert gradient is not None
        relative = (gradient - expected).norm() / expected.norm()
        assert relative <= 1e-4, f"{name}: {relative:.1e}"


def _parameter(name: str) -> str:
    """Our name of a published parameter of the spatial-temporal network."""
    for pattern, replacement in (
        (r"^(audio|visual)_patch_embed\.proj_(\w+?)(\d?)\.", r"patch.\1.stages.0\3.\2."),
        (r"\.stages\.0(\d)", r".stages.\1"),
        (r"^(audio|visual)_patch_embed\.rpe_(\w+)\.", r"patch.\1.position.\2."),
        (r"^block\.0\.trans_linear", "residual.audio.visual.align"),
        (r"^block\.1\.trans_linear", "residual.visual.audio.align"),
        (r"^block\.0\.attn\.(\w+)_attn", r"residual.audio.visual.attention.\1"),
        (r"^block\.1\.attn\.(\w+)_attn", r"residual.visual.audio.attention.\1"),
        (r"\.q_", ".query."),
        (r"\.k_", ".key."),
        (r"\.v_", ".value."),
        (r"\.proj_", ".out."),
        (r"^mlp\.0\.mlp\.fc1_", "mlp.audio.expand."),
        (r"^mlp\.0\.mlp\.fc2_", "mlp.audio.contract."),
        (r"^mlp\.1\.mlp\.fc1_", "mlp.visual.expand."),
        (r"^mlp\.1\.mlp\.fc2_", "mlp.visual.contract."),
        (r"\.bn\.", ".norm."),
    ):
        name = re.sub(pattern, replacement, name)
    return name
