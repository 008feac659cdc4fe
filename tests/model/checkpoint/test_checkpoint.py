"""Checkpoints are loaded as they were saved, and errors name what is wrong with one."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import signal
import struct
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from model.checkpoint import (
    CARD,
    WEIGHTS,
    Card,
    CheckpointError,
    import_published,
    import_published_file,
    load,
    read_card,
    save,
)
from model.checkpoint.card import MAX_CARD_BYTES
from model.checkpoint.checkpoint import MAX_WEIGHTS_BYTES
from model.config import Config, StreamConfig
from model.network import SCMRL
from model.preprocess.specs import FrameSpec, SpectrogramSpec
from tests.model.networks import lively, noise
from tests.model.test_whole_file import full_disk

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SIZE = (8, 12)
CONFIG = Config(
    streams={
        "audio": StreamConfig(channels=1, size=SIZE, splitting="shallow"),
        "visual": StreamConfig(channels=3, size=SIZE, splitting="shallow"),
    },
    classes=4,
    embed_dim=8,
    heads=2,
    mlp_ratio=2.0,
)
PLAIN = Card(
    name="small",
    version="1",
    description="A network for tests.",
    streams={
        "audio": SpectrogramSpec(sample_rate=8000, n_fft=64, hop_length=32, size=SIZE),
        "visual": FrameSpec(
            fit="pad", size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3, frames="middle"
        ),
    },
    encoding="direct",
    steps=4,
    labels=("none", "eins", "zwei", "drei"),
    config=CONFIG,
    missing_streams=True,
)


@pytest.fixture
def network() -> SCMRL:
    return lively(CONFIG)


@pytest.fixture
def folder(tmp_path: Path, network: SCMRL) -> Path:
    """A checkpoint that is fine."""
    folder = tmp_path / "small"
    save(folder, network, PLAIN)
    return folder


def state(network: SCMRL) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in network.state_dict().items()}


def put(folder: Path, data: bytes) -> None:
    """Replace the weights by other bytes, and the card's SHA-256 by theirs."""
    (folder / WEIGHTS).write_bytes(data)
    change(folder, {"sha256": hashlib.sha256(data).hexdigest()})


def change(folder: Path, fields: Mapping[str, Any]) -> None:
    content = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**content, **fields}))


def refusal(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as raised:
        load(folder)
    assert raised.value.file in str(raised.value)
    assert raised.value.field in str(raised.value)
    return raised.value


# --- round trip --------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was_saved(folder: Path, network: SCMRL) -> None:
    loaded, card = load(folder)
    state = loaded.state_dict()
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(x, state[name]) for name, x in network.state_dict().items())
    assert not loaded.training
    assert card == PLAIN.model_copy(update={"sha256": card.sha256})
    assert card == read_card(folder)
    inputs = noise(CONFIG, steps=4, batch=2)
    with torch.no_grad():
        assert torch.equal(loaded(inputs).logits, network(inputs).logits)


def test_a_loaded_network_can_be_trained_on(folder: Path) -> None:
    loaded, _ = load(folder)
    loaded.train()(noise(CONFIG, steps=2, batch=2)).logits.sum().backward()
    assert all(x.grad is not None for x in loaded.parameters())


def test_a_checkpoints_own_thresholds_are_honoured(folder: Path, network: SCMRL) -> None:
    tensors = state(network)
    for name in tensors:
        if name.endswith("threshold"):
            tensors[name] = torch.tensor(1e9)
    put(folder, save_tensors(tensors))
    silent, _ = load(folder)
    with torch.no_grad():
        logits = silent(noise(CONFIG, steps=4, batch=2)).logits
    assert torch.equal(logits, network.head.bias.detach().expand(2, -1))


def test_the_same_weights_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    network, card = load(folder)
    again = save(tmp_path / "again", network, card)
    assert again == card
    for name in (WEIGHTS, CARD):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_saving_fills_in_the_weights_sha256(folder: Path) -> None:
    card = read_card(folder)
    assert card.sha256 == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert PLAIN.sha256 == ""


def test_a_folder_has_exactly_two_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]


def test_the_card_of_another_network_is_not_saved(network: SCMRL, tmp_path: Path) -> None:
    other = PLAIN.model_copy(update={"config": CONFIG.model_copy(update={"alpha": 0.5})})
    with pytest.raises(CheckpointError, match=r"card\.json: config: is not that of the network"):
        save(tmp_path / "other", network, other)
    assert not (tmp_path / "other").exists()


# --- weights that are wrong --------------------------------------------------------------------


def test_weights_of_another_sha256_are_refused(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    error = refusal(folder)
    assert (Path(error.file), error.field) == (folder / CARD, "sha256")
    assert hashlib.sha256(data).hexdigest() in error.problem


def test_a_card_without_sha256_is_refused(folder: Path) -> None:
    change(folder, {"sha256": ""})
    assert refusal(folder).field == "sha256"


def _without(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x for name, x in tensors.items() if name != "head.bias"}


@pytest.mark.parametrize(
    ("damage", "field", "message"),
    [
        (_without, "head.bias", "is missing"),
        (lambda t: t | {"head.bias": torch.zeros(5)}, "head.bias", r"\[5\], but .* \[4\]"),
        (lambda t: t | {"head.bias": t["head.bias"].half()}, "head.bias", "float16"),
        (lambda t: t | {"head.bias": t["head.bias"] * math.nan}, "head.bias", "not finite"),
        (lambda t: t | {"head.weight": t["head.weight"] / 0}, "head.weight", "not finite"),
        (lambda t: t | {"head.extra": torch.zeros(1)}, "head.extra", "is not part of"),
        (
            lambda t: t | {"patch.audio.position.lif.threshold": torch.tensor(math.inf)},
            "patch.audio.position.lif.threshold",
            "not finite",
        ),
        (
            lambda t: t | {"patch.audio.position.lif.threshold": torch.tensor(0.0)},
            "patch.audio.position.lif.threshold",
            "is 0; must be above 0",
        ),
    ],
)
def test_a_wrong_tensor_is_named(
    folder: Path,
    network: SCMRL,
    damage: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    field: str,
    message: str,
) -> None:
    put(folder, save_tensors(damage(state(network))))
    error = refusal(folder)
    assert (Path(error.file), error.field) == (folder / WEIGHTS, field)
    with pytest.raises(CheckpointError, match=message):
        raise error


def header(entry: Mapping[str, Any], body: bytes) -> bytes:
    """A safetensors file of one entry, well formed or not."""
    text = json.dumps({"head.bias": entry}).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk" * 20,
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 4) + b"\xff\xff\xff\xff",
        header({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, bytes(8)),
        header({"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]}, bytes(16)),
        # Types and shapes that the format knows and torch does not.
        header({"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}, bytes(2)),
        header({"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}, b""),
        pickle.dumps({"head.bias": [0.0] * 4}),
    ],
    ids=["empty", "junk", "long", "binary", "short", "huge", "float4", "overflow", "pickle"],
)
def test_junk_is_no_safetensors_file(folder: Path, data: bytes) -> None:
    put(folder, data)
    error = refusal(folder)
    assert Path(error.file) == folder / WEIGHTS
    assert "not a safetensors file" in error.problem


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    error = refusal(folder)
    assert Path(error.file) == folder / name
    assert error.problem == "No such file or directory"


# --- cards that are wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
def test_a_card_that_is_no_json_object_is_refused(folder: Path, text: bytes) -> None:
    (folder / CARD).write_bytes(text)
    error = refusal(folder)
    assert (Path(error.file), error.field) == (folder / CARD, "")
    assert "JSON" in error.problem or "object" in error.problem


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"name": ""}, "name", "must have a length of at least 1"),
        ({"steps": 65}, "steps", "must be at most 64"),
        ({"encoding": "morse"}, "encoding", "'direct'"),
        ({"colour": "red"}, "colour", "no such member"),
        ({"labels": ["a", "b"]}, "", "2 labels for 4 classes"),
        ({"labels": ["a", "b", "c", "a"]}, "", "labels: every label must be different"),
        ({"streams": {}}, "", r"streams: \[\], but config.streams has \['audio', 'visual'\]"),
        ({"config": {"streams": {}, "classes": 4}}, "config", "at least one is required"),
        ({"config": {**CONFIG.model_dump(), "embed_dim": 9}}, "config", "embed_dim 9"),
        ({"config": {**CONFIG.model_dump(), "alpha": math.nan}}, "config.alpha", "finite"),
        ({"accuracy": [{"what": "all", "value": 1.0}]}, "accuracy.0.conditions", "is missing"),
    ],
)
def test_a_wrong_card_names_its_field(
    folder: Path, fields: dict[str, Any], field: str, message: str
) -> None:
    change(folder, fields)
    error = refusal(folder)
    assert (Path(error.file), error.field) == (folder / CARD, field)
    with pytest.raises(CheckpointError, match=message):
        raise error


def test_preprocessing_must_give_what_the_network_takes(folder: Path) -> None:
    streams = PLAIN.model_dump()["streams"]
    streams["visual"]["size"] = (8, 8)
    change(folder, {"streams": streams})
    assert r"streams.visual: its preprocessing gives (3, 8, 8)" in refusal(folder).problem


# --- writing -----------------------------------------------------------------------------------

SAVES_FOR_EVER = """
import sys
from model.checkpoint import load, save
network, card = load(sys.argv[1])
print("ready", flush=True)
number = 0
while True:
    number += 1
    network.head.bias.data.fill_(number)
    save(sys.argv[1], network, card.model_copy(update={"description": str(number) * 10_000}))
"""


def test_a_kill_leaves_no_half_written_file(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SAVES_FOR_EVER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    # While it writes, each file is always a whole one, and so it is after the kill.
    for _ in range(300):
        assert_whole(folder)
    while read_card(folder).description == PLAIN.description:  # on a busy machine
        assert process.poll() is None
        assert_whole(folder)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    process.stdout.close()
    assert_whole(folder)
    assert read_card(folder).description != PLAIN.description


def assert_whole(folder: Path) -> None:
    read_card(folder)
    data = (folder / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + length])
    end = max(entry["data_offsets"][1] for name, entry in entries.items() if name[0] != "_")
    assert len(data) == 8 + length + end


def test_a_write_that_fails_leaves_the_old_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    calls = iter([None, OSError(28, "No space left on device")])

    def fsync(_: int) -> None:
        if (problem := next(calls)) is not None:
            raise problem

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=f"No space left on device: '{folder / WEIGHTS}'"):
        save(folder, lively(CONFIG, seed=1), PLAIN.model_copy(update={"version": "2"}))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.undo()
    with full_disk(1000), pytest.raises(OSError, match=f"File too large: '{folder / CARD}'"):
        save(folder, lively(CONFIG, seed=1), PLAIN.model_copy(update={"version": "2"}))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    load(folder)


# --- published checkpoints ---------------------------------------------------------------------

#: Published names of the single-stream network's modules, written down by hand.
SINGLE = CONFIG.model_copy(update={"streams": {"visual": CONFIG.streams["visual"]}})
THEIRS = {
    "patch.visual.stages.0.": "patch_embed.proj_{}",
    "patch.visual.stages.1.": "patch_embed.proj_{}1",
    "patch.visual.position.": "patch_embed.rpe_{}",
    "blocks.0.attention.query.": "block.0.attn.q_{}",
    "blocks.0.attention.key.": "block.0.attn.k_{}",
    "blocks.0.attention.value.": "block.0.attn.v_{}",
    "blocks.0.attention.out.": "block.0.attn.proj_{}",
    "blocks.0.mlp.expand.": "block.0.mlp.fc1_{}",
    "blocks.0.mlp.contract.": "block.0.mlp.fc2_{}",
    "blocks.0.attention.": "block.0.attn.attn_{}",
    "head": "head",
}


def published(network: SCMRL) -> dict[str, Any]:
    """A single-stream network's weights as a published checkpoint names them."""
    named = {}
    for name, x in network.state_dict().items():
        ours = next(prefix for prefix in THEIRS if name.startswith(prefix))
        module, _, leaf = name.removeprefix(ours).rpartition(".")
        their = THEIRS[ours].format("bn" if module == "norm" else module)
        named[f"{their}.{leaf}"] = x.clone()
    return named


def single() -> SCMRL:
    return lively(SINGLE)


def test_published_weights_answer_as_ours() -> None:
    network = single()
    inputs = noise(SINGLE, steps=4, batch=2)
    unused = {"av_attention.q.weight": 0, "block.0.norm1.bias": 0, "block.0.res_lif.threshold": 0}
    for prefix in ("", "module."):  # as DataParallel names them
        theirs = {prefix + name: x for name, x in (published(network) | unused).items()}
        imported = import_published(theirs, SINGLE)
        with torch.no_grad():
            assert torch.equal(imported(inputs).logits, network(inputs).logits)


def test_an_imported_network_shares_no_memory_with_what_it_came_from() -> None:
    theirs = published(single())
    imported = import_published(theirs, SINGLE)
    theirs["head.bias"].fill_(7)
    assert not torch.equal(imported.head.bias, theirs["head.bias"])


@pytest.mark.parametrize(
    ("fields", "entry", "message"),
    [
        ({"head.bias": torch.zeros(9)}, "head.bias", r"\[9\]"),
        ({"head.bias": torch.full((4,), math.nan)}, "head.bias", "not finite"),
        ({"head.bias": [0, 0, 0, 0]}, "head.bias", "is not a tensor but a list"),
        ({"head.bias": torch.zeros(4).to_sparse()}, "head.bias", "not a dense tensor"),
        ({"head.bias": torch.zeros(4, device="meta")}, "head.bias", "not a dense tensor"),
        ({"head.bias": torch.zeros(4) * 1j}, "head.bias", "not a dense tensor of real numbers"),
        ({"head.scale": torch.zeros(4)}, "head.scale", "is not part of"),
        ({"block.1.attn.q_conv.weight": torch.zeros(4)}, "block.1.attn.q_conv.weight", "not part"),
        ({3: torch.zeros(4)}, "3", "is not part of"),
    ],
)
def test_a_published_entry_that_does_not_fit_is_named(
    fields: dict[str, Any], entry: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as raised:
        import_published(published(single()) | fields, SINGLE)
    # The tensors are checked for shape and values under our names, which these share.
    assert raised.value.field == entry


def test_a_missing_published_entry_is_named() -> None:
    theirs = published(single())
    del theirs["block.0.attn.attn_lif.threshold"]
    with pytest.raises(CheckpointError, match="is missing") as raised:
        import_published(theirs, SINGLE)
    assert raised.value.field == "block.0.attn.attn_lif.threshold"


def test_published_networks_have_audio_and_visual_only() -> None:
    streams = {**CONFIG.streams, "tactile": CONFIG.streams["audio"]}
    with pytest.raises(CheckpointError, match="published networks have audio and visual"):
        import_published({}, CONFIG.model_copy(update={"streams": streams}))
    turned = {"streams": dict(reversed(CONFIG.streams.items())), "fusion": "concat"}
    with pytest.raises(CheckpointError, match="concatenate audio first"):
        import_published({}, CONFIG.model_copy(update=turned))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_published_file_is_read_with_its_command_line(tmp_path: Path, zipped: bool) -> None:
    network = single()
    content = {
        "epoch": 3,
        "state_dict": published(network),
        "args": Namespace(lr=5e-3, streams=["visual"]),
    }
    file = tmp_path / "model_best.pth.tar"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    state = import_published_file(file, SINGLE).state_dict()
    assert all(torch.equal(x, state[name]) for name, x in network.state_dict().items())


class Malicious:
    """Creates a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def _as_zip(content: object, file: Path) -> None:
    torch.save(content, file)


def _as_tar(content: object, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def _as_pickle(content: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("write", [_as_zip, _as_tar, _as_pickle])
def test_a_malicious_file_is_refused_and_its_code_does_not_run(
    tmp_path: Path, write: Callable[[object, Path], None]
) -> None:
    file, mark = tmp_path / "model_best.pth.tar", tmp_path / "it-ran"
    write({"state_dict": published(single()), "args": Malicious(mark)}, file)
    reason = "not a file of torch.save" if write is _as_pickle else r"asks for \w+\.getattr"
    with pytest.raises(CheckpointError, match=reason) as raised:
        import_published_file(file, SINGLE)
    assert raised.value.file == str(file)
    assert not mark.exists()
    if write is _as_pickle:
        pickle.loads(file.read_bytes())
        assert mark.exists()  # it would have run


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_our_own_files_run_no_code_either(folder: Path, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "it-ran"
    data = pickle.dumps(Malicious(mark))
    if name == WEIGHTS:
        put(folder, data)
    else:
        (folder / CARD).write_bytes(data)
    assert Path(refusal(folder).file) == folder / name
    assert not mark.exists()


@pytest.mark.parametrize("data", [b"", b"junk", b"PK\x03\x04junk", pickle.dumps(3, 2)[:-1]])
def test_a_damaged_published_file_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "model_best.pth.tar"
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is damaged, or not a file of torch\.save"):
        import_published_file(file, SINGLE)


@pytest.mark.parametrize("content", [[1], {"epoch": 1}, {"state_dict": [1]}, torch.zeros(2)])
def test_a_published_file_without_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "model_best.pth.tar"
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=r"model_best\.pth\.tar: state_dict: is missing"):
        import_published_file(file, SINGLE)


def test_a_published_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pth\.tar: No such file"):
        import_published_file(tmp_path / "gone.pth.tar", SINGLE)


@pytest.mark.parametrize(("file", "most"), [(WEIGHTS, MAX_WEIGHTS_BYTES), (CARD, MAX_CARD_BYTES)])
def test_a_file_that_is_too_large_is_refused_unread(folder: Path, file: str, most: int) -> None:
    os.truncate(folder / file, most + 1)  # of holes, which take no room on the disk
    with pytest.raises(CheckpointError, match=f"has {most + 1} bytes; at most {most} are accepted"):
        load(folder)
