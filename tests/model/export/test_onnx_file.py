"""Exported graphs answer in ONNX Runtime as the plain network does."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor

from model.calibration import calibrated
from model.checkpoint import Calibration, Card, CheckpointError, import_published, load
from model.config import Config, StreamConfig
from model.engine import Engine
from model.engine.inputs import encode_batch
from model.export import neuron, onnx_file
from model.export.onnx_file import Exported, export_onnx
from model.media.events.reader import read_camera_events, read_channel_events
from model.media.reader import read_clip
from model.network import SCMRL, Output
from model.network.neuron import LIF
from model.preprocess.prepare import prepare
from model.preprocess.specs import FrameSpec, Specs, SpectrogramSpec
from tests.conftest import ROOT
from tests.model.network.test_golden import published_config
from tests.model.networks import lively

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a graph is 10 to 20 s of CPU time

CLIPS = sorted((ROOT / "tests" / "data" / "clips").glob("digit-*"))
SIZE = (8, 12)
CONFIG = Config(
    streams={
        "audio": StreamConfig(channels=1, size=SIZE, splitting="shallow"),
        "visual": StreamConfig(channels=3, size=SIZE, splitting="shallow"),
    },
    classes=4, embed_dim=8, heads=2, mlp_ratio=2.0,
)  # fmt: skip
CARD = Card(
    name="small",
    version="1",
    description="A network for tests.",
    streams={
        "audio": SpectrogramSpec(sample_rate=8000, n_fft=64, hop_length=32, size=SIZE),
        "visual": FrameSpec(fit="pad", size=SIZE, frames="spread"),
    },
    encoding="direct",
    steps=2,
    labels=("none", "eins", "zwei", "drei"),
    config=CONFIG,
    missing_streams=True,
    calibration=Calibration(temperature={2: 0.25}, alone={"visual": {2: 3.0}}),
)
#: Samples of the comparisons: a potential at its threshold may fire in one runtime alone.
SAMPLES, AGREEING = 40, 36


@dataclass(frozen=True)
class Graph:
    """A written graph, and what it was made of."""

    file: Path
    network: SCMRL
    card: Card
    exported: Exported

    def run(self, inputs: dict[str, Tensor]) -> dict[str, NDArray[np.float32]]:
        """Answers of ONNX Runtime to inputs [B, T or 1, C, H, W]."""
        session = onnxruntime.InferenceSession(self.file)
        names = [output.name for output in session.get_outputs()]
        feeds = {name: x.numpy() for name, x in inputs.items()}
        return dict(zip(names, session.run(None, feeds), strict=True))

    def engine(self, inputs: dict[str, Tensor]) -> Output:
        """Answers of the engine's plain path."""
        engine = Engine(self.network, "cpu", threads=1)
        assert engine.path == "plain"
        turned = {name: x.transpose(0, 1) for name, x in inputs.items()}
        return engine.run(turned, self.exported.steps)

    def noise(self, batch: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(batch)
        return {
            name: torch.rand((batch, *shape), generator=generator)
            for name, shape in self.exported.inputs.items()
        }


def export(folder: Path, network: SCMRL, card: Card, **options: Any) -> Graph:
    file = folder / "graph.onnx"
    return Graph(file, network, card, export_onnx(network, card, file, **options))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A network of two streams, of which the graph takes one."""
    folder = tmp_path_factory.mktemp("small")
    return export(folder, lively(CONFIG), CARD, streams=["visual"])


@pytest.fixture(scope="module")
def avdigits(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The embedded checkpoint, at T = 2: a graph of half the size is written in half the time."""
    network, card = load(ROOT / "weights" / "avdigits")
    return export(tmp_path_factory.mktemp("avdigits"), network, card, steps=2)


def check(graph: Graph, inputs: dict[str, Tensor]) -> int:
    """Return how many samples agree within 1e-5; each answer must be consistent in itself."""
    answers, output = graph.run(inputs), graph.engine(inputs)
    steps, streams = graph.exported.steps, list(inputs)
    logits = torch.from_numpy(answers["logits"])
    terms = {name: torch.from_numpy(answers[f"{name}_term"]) for name in streams}
    total = torch.stack(list(terms.values())).sum(0) + output.bias
    torch.testing.assert_close(total, logits, rtol=0, atol=1e-5)
    probabilities = calibrated(replace(output, logits=logits), graph.card, steps).softmax(1)
    torch.testing.assert_close(torch.from_numpy(answers["probabilities"]), probabilities)
    differences = [(logits - output.logits).abs().amax(1)]
    differences += [(terms[n] - output.stream_logits[n]).abs().amax(1) for n in streams]
    return int((torch.stack(differences).amax(0) <= 1e-5).sum())


def test_inputs_and_outputs_are_named_and_the_batch_is_dynamic(avdigits: Graph) -> None:
    session = onnxruntime.InferenceSession(avdigits.file)
    inputs = {x.name: x.shape for x in session.get_inputs()}
    assert inputs == {"audio": ["batch", 1, 1, 64, 192], "visual": ["batch", 2, 1, 96, 128]}
    outputs = {x.name: x.shape for x in session.get_outputs()}
    assert outputs == {
        name: ["batch", 10] for name in ("logits", "probabilities", "audio_term", "visual_term")
    }
    assert avdigits.exported.bytes == avdigits.file.stat().st_size < 9e6
    assert avdigits.exported.agreeing >= 12
    assert avdigits.exported.difference <= 1e-5


@pytest.mark.parametrize("batch", [1, 5])
def test_each_batch_size_is_answered(small: Graph, batch: int) -> None:
    answers = small.run(small.noise(batch))
    assert {x.shape for x in answers.values()} == {(batch, 4)}
    check(small, small.noise(batch))


def test_a_graph_of_one_stream_answers_as_the_plain_path_with_it_alone(small: Graph) -> None:
    assert list(small.exported.inputs) == ["visual"]
    assert check(small, small.noise(SAMPLES)) >= AGREEING


def test_a_graph_of_another_fusion_answers_as_the_plain_path(tmp_path: Path) -> None:
    """`cmci` has neurons in its fusion, and computes them for each subset of the streams."""
    config = CONFIG.model_copy(update={"fusion": "cmci", "attention": None})
    graph = export(tmp_path, lively(config), CARD.model_copy(update={"config": config}))
    assert check(graph, graph.noise(SAMPLES)) >= AGREEING


def test_the_metadata_says_what_a_client_needs(small: Graph) -> None:
    about = onnxruntime.InferenceSession(small.file).get_modelmeta().custom_metadata_map
    assert json.loads(about["scmrl.labels"]) == list(CARD.labels)
    specs = TypeAdapter(Specs).validate_json(about["scmrl.streams"])
    assert specs == {"visual": CARD.streams["visual"]}
    assert about["scmrl.steps"] == "2"
    bias = torch.tensor(json.loads(about["scmrl.bias"]))
    assert torch.equal(bias, small.network.head.bias)


def test_the_exported_neuron_fires_as_the_network_s() -> None:
    lif = LIF(threshold=0.75)
    x = torch.from_numpy(np.random.RandomState(0).normal(1, 1, (5, 40, 30))).float()
    x[:, :5] = torch.tensor([1.5, 0.75, 0.375, 3.0, 0.0])[:, None, None]  # at the threshold
    expected = lif.fire(x)
    assert torch.equal(neuron.fire(x, 0.75, 2.0), expected)
    assert 0.1 < expected.mean() < 0.9


def test_thresholds_of_the_layers_are_carried(small: Graph) -> None:
    """Those of `lively` differ from layer to layer: with 1 everywhere the answers are others."""
    thresholds = {
        name: torch.ones_like(x) if name.endswith("threshold") else x
        for name, x in lively(CONFIG).state_dict().items()
    }
    other = SCMRL(CONFIG).eval()
    other.load_state_dict(thresholds)
    swapped = Graph(small.file, other, CARD, small.exported)
    assert check(swapped, swapped.noise(SAMPLES)) < AGREEING


def test_a_graph_that_answers_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fire(x: Tensor, threshold: float, tau: float) -> Tensor:
        return neuron.fire(x, threshold + 0.1, tau)

    monkeypatch.setattr(onnx_file, "fire", fire)
    with pytest.raises(CheckpointError, match="of 16 samples of noise otherwise"):
        export(tmp_path, lively(CONFIG), CARD, steps=1, streams=["visual"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"streams": ["tactile"]}, r"streams: \['tactile'\]: can be one or more of"),
        ({}, {"streams": []}, "can be one or more of"),
        ({"missing_streams": False}, {"streams": ["audio"]}, "missing_streams: is false"),
        ({}, {"steps": 65}, "steps: is 65; can be 1 to 64"),
    ],
)
def test_what_the_card_does_not_allow_is_refused(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        export(tmp_path, lively(CONFIG), CARD.model_copy(update=changes), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_golden_case_gives_the_published_logits(tmp_path: Path, shared: Path) -> None:
    """No membrane potential of it lies at its threshold: every sample must agree."""
    folder = shared / "golden" / "unimodal_visual"
    options = json.loads((folder / "meta.json").read_text())["config"]
    config = published_config(options)
    network = import_published(load_file(folder / "state_dict.safetensors"), config)
    changes = {
        "config": config,
        "streams": {"visual": FrameSpec(fit="pad", size=(64, 64), frames="spread")},
        "labels": tuple(map(str, range(config.classes))),
        "calibration": None,
    }
    card = Card.model_validate(CARD.model_copy(update=changes).model_dump())
    graph = export(tmp_path, network, card, steps=options["step"])
    stored = {n: x.float() for n, x in load_file(folder / "inputs.safetensors").items()}
    logits = torch.from_numpy(graph.run(stored)["logits"])
    golden = load_file(folder / "golden.safetensors")["logits"]
    torch.testing.assert_close(logits, golden, rtol=1e-4, atol=2e-5)


def test_a_recording_of_events_is_answered_as_by_the_plain_path(tmp_path: Path) -> None:
    """At T = 2: events have a frame for each time step. At the card's 16 the graph takes a minute
    to write (docs/onnx.md)."""
    graph = export(tmp_path, *load(ROOT / "weights" / "ndigits-events"), steps=2)
    assert graph.exported.inputs == {"audio": (2, 1, 16, 64), "visual": (2, 2, 32, 32)}
    folder = ROOT / "tests" / "data" / "events"
    events = {
        "visual": read_camera_events((folder / "digit-7.bs2").read_bytes()),
        "audio": read_channel_events((folder / "digit-7.npz").read_bytes()),
    }
    prepared = prepare(graph.card.streams, None, None, 2, events)
    inputs = encode_batch([prepared], graph.card.encoding, 2)
    inputs = {name: x.transpose(0, 1).contiguous() for name, x in inputs.items()}
    assert check(graph, inputs) == 1
    assert graph.run(inputs)["logits"].argmax() == 7
    assert check(graph, graph.noise(SAMPLES)) >= AGREEING


# --- the embedded checkpoint -------------------------------------------------------------------


def clip_inputs(graph: Graph, file: Path) -> dict[str, Tensor]:
    """The inputs of a clip, [1, T or 1, C, H, W], as the service makes them."""
    steps = graph.exported.steps
    clip = read_clip(file.read_bytes(), steps)
    prepared = prepare(graph.card.streams, clip.sound, clip.pictures, steps)
    inputs = encode_batch([prepared], "direct", steps)
    frames = {name: shape[0] for name, shape in graph.exported.inputs.items()}
    return {
        name: x.expand(frames[name], *x.shape[1:]).transpose(0, 1).contiguous()
        for name, x in inputs.items()
    }


def test_clips_are_answered_as_by_the_plain_path(avdigits: Graph) -> None:
    clips = [clip_inputs(avdigits, file) for file in CLIPS]
    batch = {name: torch.cat([clip[name] for clip in clips]) for name in clips[0]}
    assert check(avdigits, batch) >= len(CLIPS) - 1
    answers = avdigits.run(batch)["probabilities"].argmax(1)
    assert [str(answer) for answer in answers] == [file.stem[-1] for file in CLIPS]


WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_example_of_the_docs_classifies_a_clip_without_torch(
    avdigits: Graph, tmp_path: Path
) -> None:
    seven = ROOT / "tests" / "data" / "clips" / "digit-7.webm"
    sound = read_clip(seven.read_bytes(), 1).sound
    assert sound is not None
    voice = tmp_path / "voice.wav"
    soundfile.write(voice, sound.samples.T, sound.sample_rate, subtype="FLOAT")
    example = ROOT / "docs" / "classify_onnx.py"
    printed = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, example, avdigits.file, voice, seven],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=120,
    ).stdout.splitlines()  # fmt: skip
    label, probability = printed[0].split(": ")
    assert label == "7"
    assert float(probability) > 0.9
    assert len(printed) == 3
