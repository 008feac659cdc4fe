"""Published checkpoints become ours: configuration, labels, thresholds, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoint import CheckpointError, load, save
from model.checkpoint.import_file import Imported, import_checkpoint
from model.checkpoint.published_config import PublishedConfig, read_config
from model.checkpoint.published_tasks import FROM_FILE, PUBLISHED_TASKS, Overrides
from model.config import Config, StreamConfig
from model.network import SCMRL
from model.preprocess.profiles import PROFILES
from tests.model.checkpoint.published_files import ARGUMENTS, UNUSED, theirs, write
from tests.model.network.test_golden import CASES, published_config
from tests.model.networks import lively, noise

pytestmark = pytest.mark.slow

TASK = PUBLISHED_TASKS["crema-d"]
CONFIG = Config(streams=TASK.streams, classes=6, embed_dim=8, heads=4, mlp_ratio=2.0, alpha=0.75)


@pytest.fixture(scope="module")
def network() -> SCMRL:
    return lively(CONFIG)


def bring(file: Path, task: str = "crema-d", **others: Any) -> Imported:
    return import_checkpoint(file, PUBLISHED_TASKS[task], "name", **others)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_the_published_training_becomes_a_checkpoint(
    tmp_path: Path, network: SCMRL, zipped: bool
) -> None:
    file = write(tmp_path / "model_best.pth.tar", theirs(network) | UNUSED, zipped=zipped)
    imported = bring(file)
    card = save(tmp_path / "mine", imported.network, imported.card)
    loaded, read = load(tmp_path / "mine")
    inputs = noise(CONFIG, steps=3, batch=2)
    with torch.inference_mode():
        assert torch.equal(loaded(inputs).logits, network(inputs).logits)
    assert read == card
    assert card.config == CONFIG
    assert card.steps == 3
    assert card.labels == ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    assert card.streams == PROFILES["crema_d"]
    assert card.training is not None
    assert (card.training.seed, card.training.epochs) == (42, 58)
    assert card.training.notes["batch_size"] == "128"
    assert not card.missing_streams
    assert any("97.3633 % top-1" in note for note in card.notes)
    assert imported.unused == {
        "av_attention": 1, "block.*.norm1": 1, "block.*.norm2": 1, "res_lif": 1,
        "act_fun.alpha": 1,
    }  # fmt: skip
    assert imported.ignored == ("arch", "optimizer", "version")
    assert imported.check.steps == 3
    assert set(imported.check.firing_rates) == {"audio", "visual"}
    assert all(rate > 0 for rate in imported.check.firing_rates.values())


def test_thresholds_are_carried_layer_by_layer(tmp_path: Path, network: SCMRL) -> None:
    weights = theirs(network)
    entry = "visual_patch_embed.proj_lif2.threshold"
    weights[entry] = torch.tensor(0.625)
    imported = bring(write(tmp_path / "x.pth.tar", weights))
    assert imported.network.patch["visual"].stages[2].lif.v_threshold == 0.625  # type: ignore[index,union-attr]
    assert imported.thresholds[0.625] == 1
    assert sum(imported.thresholds.values()) == sum("threshold" in name for name in weights)
    inputs = noise(CONFIG, steps=3, batch=2)
    with torch.inference_mode():
        assert not torch.equal(imported.network(inputs).logits, network(inputs).logits)


def test_weights_alone_are_imported_as_published(tmp_path: Path) -> None:
    """Without a command line, the paper's alpha, heads and T are assumed, and said."""
    network = lively(Config(streams=TASK.streams, classes=6, embed_dim=16, mlp_ratio=2.0))
    file = tmp_path / "weights.pth"
    torch.save({f"module.{name}": x for name, x in theirs(network).items()}, file)
    imported = bring(file)
    assert imported.card.config == network.config
    assert imported.card.steps == 4
    assert any("heads 16, alpha 1.5, steps 4" in note for note in imported.card.notes)
    overrides = Overrides(attention="none", alpha=0.5, heads=2, steps=7)
    card = bring(file, overrides=overrides).card
    assert (card.config.attention, card.config.heads, card.steps) == (None, 2, 7)


# --- the configuration -------------------------------------------------------------------------


def golden(shared: Path, name: str) -> tuple[Mapping[str, Tensor], Config, dict[str, Any]]:
    """Weights, configuration and command line of a golden case."""
    folder = shared / "golden" / name
    options = json.loads((folder / "meta.json").read_text())["config"]
    weights = load_file(folder / "state_dict.safetensors")
    arguments = {key: options[key] for key in ("model", "modality", "step", "interaction",
                 "cross_attn", "attn_method", "alpha")}  # fmt: skip
    return weights, published_config(options), arguments


def task_of(name: str) -> str:
    tasks = {"urbansound8k_av": "urbansound8k-av", "mnistdvs_ntidigits_32": "mnistdvs-ntidigits"}
    return tasks.get(name, "crema-d")


def read(
    weights: Mapping[str, Any], arguments: dict[str, Any], task: str, overrides: Overrides
) -> PublishedConfig:
    return read_config(weights, arguments, PUBLISHED_TASKS[task], overrides, Path("file"))


def with_sizes(config: Config, sizes: Config) -> Config:
    """A configuration with the frame sizes of another one: golden cases are of 64 x 64 as well."""
    streams = {
        name: stream.model_copy(update={"size": sizes.streams[name].size})
        for name, stream in config.streams.items()
    }
    return config.model_copy(update={"streams": streams})


@pytest.mark.parametrize("name", CASES)
def test_the_command_line_decides_the_configuration(shared: Path, name: str) -> None:
    weights, expected, arguments = golden(shared, name)
    actual = read(weights, arguments, task_of(name), FROM_FILE)
    assert actual.steps == arguments["step"]
    assert _computed(with_sizes(actual.config, expected)) == _computed(expected)
    assert actual.assumed == ("heads 16",)


@pytest.mark.parametrize("name", CASES)
def test_shapes_decide_the_configuration_of_weights_alone(shared: Path, name: str) -> None:
    weights, expected, _ = golden(shared, name)
    if len(expected.streams) > 1 and expected.attention != "spatial-temporal":
        with pytest.raises(CheckpointError, match="say --attention spatial, temporal or none"):
            read(weights, {}, task_of(name), FROM_FILE)
    chosen = Overrides(attention=expected.attention or "none")
    actual = read(weights, {}, task_of(name), chosen)
    assert _computed(with_sizes(actual.config, expected)) == _computed(expected)


def _computed(config: Config) -> dict[str, Any]:
    """The fields of a configuration that decide what is computed."""
    unused = {"alpha"} if config.attention is None else set()
    if len(config.streams) == 1:
        unused = {"alpha", "attention", "alignment", "fusion"}
    else:
        unused |= {"depth"}
    if config.attention is None:
        unused.add("alignment")
    return config.model_dump(exclude=unused)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "UrbanSound8K"}, r"args\.dataset: is 'UrbanSound8K', but --task crema-d is"),
        ({"attn_method": "WeightAttention"}, r"args\.attn_method: is 'WeightAttention'; this"),
        ({"interaction": "Gated"}, r"args\.interaction"),
        ({"interaction": "Concat"}, r"head\.weight: is of \[6, 8\], but args\.interaction"),
        ({"node_type": "PLIFNode"}, r"args\.node_type: is 'PLIFNode'; this network has LIFNode"),
        ({"tau": 1.5}, r"args\.tau: is 1\.5; this network has 2\.0"),
        ({"encode": "rate"}, r"args\.encode"),
        ({"model": "resnet18"}, r"args\.model: is 'resnet18'"),
        ({"step": 65}, r"args\.step: is 65; can be 1 to 64"),
        ({"step": "4"}, r"args\.step: is '4'; expected a number"),
        ({"num_heads": 3}, r"embed_dim 8 is not a multiple of heads 3"),
        ({"alpha": float("nan")}, r"alpha"),
    ],
)
def test_a_command_line_that_this_network_cannot_follow_is_refused(
    tmp_path: Path, network: SCMRL, changes: dict[str, Any], message: str
) -> None:
    file = write(tmp_path / "x.pth.tar", theirs(network), ARGUMENTS | changes)
    with pytest.raises(CheckpointError, match=message) as raised:
        bring(file)
    assert raised.value.file == str(file)


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path, network: SCMRL) -> None:
    file = write(tmp_path / "x.pth.tar", theirs(network), None)
    with pytest.raises(CheckpointError, match="is of 6 classes, but --task urbansound8k-av has 10"):
        bring(file, "urbansound8k-av", overrides=Overrides(heads=4))
    with pytest.raises(CheckpointError, match=r"has 1 in shallow"):
        bring(file, "mnistdvs-ntidigits")
    file = write(tmp_path / "y.pth.tar", {"conv1.weight": torch.zeros(3, 3)}, None)
    with pytest.raises(CheckpointError, match="no patch embeddings of a published network"):
        bring(file)


def test_entries_that_do_not_fit_are_all_named_with_their_shapes(
    tmp_path: Path, network: SCMRL
) -> None:
    weights = theirs(network)
    weights["block.1.attn.temporal_attn.q_conv.weight"] = torch.zeros(8, 4, 1)
    del weights["mlp.1.mlp.fc2_bn.running_var"]
    weights["block.0.extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as raised:
        bring(write(tmp_path / "x.pth.tar", weights))
    message = str(raised.value)
    assert "block.1.attn.temporal_attn.q_conv.weight" in message
    assert "is float32 [8, 4, 1], but the config needs float32 [8, 8, 1]" in message
    assert "mlp.1.mlp.fc2_bn.running_var is missing; the config needs float32 [8]" in message
    assert "block.0.extra is not part of a published network" in message


# --- labels ------------------------------------------------------------------------------------


def test_labels_of_a_file_replace_those_of_the_task(tmp_path: Path, network: SCMRL) -> None:
    file = write(tmp_path / "x.pth.tar", theirs(network))
    labels = tmp_path / "labels.txt"
    labels.write_text("neutral\nhappy\nsad\nfear\ndisgust\nanger\n", "utf-8-sig")  # of Windows
    card = bring(file, labels=labels).card
    assert card.labels == ("neutral", "happy", "sad", "fear", "disgust", "anger")
    assert "order of the labels: labels.txt" in card.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\nb\nc\n", "has 3 labels for 6 classes"),
        (b"a\nb\n\nc\nd\ne\n", "line 3: is empty"),
        (b"a\nb\nc\nd\ne\na\n", "line 6: repeats 'a'"),
        (b"\xff\nb\nc\nd\ne\nf\n", "is not UTF-8"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(
    tmp_path: Path, network: SCMRL, text: bytes, message: str
) -> None:
    file = write(tmp_path / "x.pth.tar", theirs(network))
    labels = tmp_path / "labels.txt"
    labels.write_bytes(text)
    with pytest.raises(CheckpointError, match=message):
        bring(file, labels=labels)
    with pytest.raises(CheckpointError, match="No such file"):
        bring(file, labels=tmp_path / "gone.txt")


def test_a_network_of_one_stream_is_imported(tmp_path: Path) -> None:
    visual = {"visual": StreamConfig(channels=3, size=(128, 128))}
    network = lively(Config(streams=visual, classes=6, embed_dim=8, heads=4, depth=2))
    arguments = ARGUMENTS | {"model": "spikformer", "modality": "visual", "cross_attn": False}
    imported = bring(write(tmp_path / "x.pth.tar", theirs(network), arguments))
    assert list(imported.card.streams) == ["visual"]
    assert imported.card.config.depth == 2
    inputs = noise(network.config, steps=2, batch=1)
    with torch.inference_mode():
        assert torch.equal(imported.network(inputs).logits, network(inputs).logits)


# --- the golden file ---------------------------------------------------------------------------


def imported_logits(imported: Imported, inputs: Path, folder: Path) -> Tensor:
    """The logits of a golden case's inputs, after the checkpoint was saved and loaded."""
    save(folder, imported.network, imported.card)
    network, card = load(folder)
    repeated = {
        name: x.float().transpose(0, 1).expand(card.steps, -1, -1, -1, -1)
        for name, x in load_file(inputs).items()
    }
    with torch.inference_mode():
        logits: Tensor = network(repeated).logits
    return logits


def test_the_golden_checkpoint_gives_the_published_logits(shared: Path, tmp_path: Path) -> None:
    folder = shared / "golden"
    imported = bring(folder / "model_best.pth.tar", "urbansound8k-av")
    logits = imported_logits(imported, folder / "model_best.inputs.safetensors", tmp_path / "us")
    golden = load_file(folder / "urbansound8k_av" / "golden.safetensors")["logits"]
    torch.testing.assert_close(logits, golden, rtol=1e-4, atol=2e-5)
    card = imported.card
    assert (card.steps, card.config.alpha, card.config.embed_dim) == (4, 1.5, 64)
    assert card.labels[0] == "air_conditioner"
    assert imported.thresholds == {1.0: 36}


@pytest.mark.parametrize("name", ["crema_d_64", "mnistdvs_ntidigits_32"])
def test_golden_cases_of_the_other_tasks_give_the_published_logits(
    shared: Path, tmp_path: Path, name: str
) -> None:
    folder = shared / "golden" / name
    weights, _, arguments = golden(shared, name)
    task = PUBLISHED_TASKS[task_of(name)]
    arguments |= {"dataset": task.dataset, "event_size": 28, "tau": 2.0, "threshold": 0.5}
    file = write(tmp_path / "model_best.pth.tar", dict(weights), arguments)
    imported = bring(file, task.name)
    assert imported.card.steps == task.steps
    assert imported.card.streams == PROFILES[task.profile]
    logits = imported_logits(imported, folder / "inputs.safetensors", tmp_path / "mine")
    expected = load_file(folder / "golden.safetensors")["logits"]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-5)


def test_events_of_another_frame_size_are_refused(tmp_path: Path) -> None:
    task = PUBLISHED_TASKS["mnistdvs-ntidigits"]
    config = Config(streams=task.streams, classes=10, embed_dim=8, heads=4)
    arguments = ARGUMENTS | {"dataset": task.dataset}
    file = write(tmp_path / "x.pth.tar", theirs(lively(config)), arguments)
    with pytest.raises(CheckpointError, match=r"args\.event_size: is 48; the published one is 28"):
        bring(file, task.name)


def test_a_task_has_its_shapes_and_preprocessing() -> None:
    for task in PUBLISHED_TASKS.values():
        for name, stream in task.streams.items():
            spec = PROFILES[task.profile][name]
            assert (spec.channels, spec.size) == (stream.channels, stream.size)
