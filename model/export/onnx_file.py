"""`scmrl export onnx`: a checkpoint as an ONNX graph, for T time steps and any batch size."""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Collection
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from model.calibration import calibrated
from model.checkpoint import Card, CheckpointError
from model.config import MAX_STEPS
from model.export.neuron import fire, onnx_fire
from model.network import SCMRL
from model.network.neuron import LIF
from model.preprocess.specs import FrameSpec, Specs, SpectrogramSpec
from model.whole_file import replacing

#: Version of ONNX's operators.
OPSET = 20
#: Largest difference of an output from the plain network's.
TOLERANCE = 1e-5
#: Samples of noise that the graph is checked with, and the least of them that must agree: a
#: membrane potential at its threshold may fire in one runtime and not in the other.
_SAMPLES, _AGREEING = 16, 12


@dataclass(frozen=True)
class Exported:
    """A written graph.

    `inputs`: shapes by stream, [B, T or 1, C, H, W] without B. `difference`: the largest of an
    output, over those of the `samples` of noise that agree. `agreeing`: their number.
    """

    inputs: dict[str, tuple[int, ...]]
    steps: int
    bytes: int
    agreeing: int
    samples: int
    difference: float


class Graph(nn.Module):
    """What the graph computes: a network with an input [B, T or 1, C, H, W] for each of `streams`.

    Outputs are logits, probabilities (by the card's temperature) and each stream's term of the
    logits, [B, classes] each.
    """

    def __init__(self, network: SCMRL, card: Card, steps: int, streams: Collection[str]) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        for module in self.network.modules():
            if isinstance(module, LIF):
                # spikingjelly's neuron is an operator of its own, which ONNX does not have.
                module.fire = partial(fire, threshold=module.v_threshold, tau=float(module.tau))  # type: ignore[method-assign]
        self._card = card
        self.steps = steps
        self._streams = tuple(streams)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        frames = {}
        for name, x in zip(self._streams, inputs, strict=True):
            first = x.transpose(0, 1)  # [T or 1, B, C, H, W]
            frames[name] = first.expand(self.steps, -1, -1, -1, -1)
        output = self.network(frames)
        logits = calibrated(output, self._card, self.steps)
        return output.logits, logits.softmax(1), *output.stream_logits.values()


def export_onnx(
    network: SCMRL,
    card: Card,
    file: Path,
    steps: int | None = None,
    streams: Collection[str] | None = None,
) -> Exported:
    """Write a checkpoint as an ONNX graph, checked with ONNX Runtime against the plain network.

    `steps`: T, by default the card's. `streams`: those that the graph takes, by default all; fewer
    need a card with `missing_streams`.

    Raises CheckpointError where the card does not allow that, or where the graph's answers differ;
    OSError where `file` cannot be written.
    """
    steps = card.steps if steps is None else steps
    if not 1 <= steps <= MAX_STEPS:
        raise CheckpointError(card.name, "steps", f"is {steps}; can be 1 to {MAX_STEPS}")
    chosen = _chosen(card, streams)
    graph = Graph(network, card, steps, chosen)
    shapes = {name: _input_shape(card, name, steps) for name in chosen}
    data = _export(graph, shapes, _metadata(network, card, steps, chosen))
    agreeing, difference = _compare(data, network, graph, shapes)
    if agreeing < _AGREEING:
        problem = f"answers {_SAMPLES - agreeing} of {_SAMPLES} samples of noise otherwise"
        raise CheckpointError(file, "", f"the graph {problem} than the network")
    with replacing(file) as stream:
        stream.write(data)
    return Exported(shapes, steps, len(data), agreeing, _SAMPLES, difference)


def _chosen(card: Card, streams: Collection[str] | None) -> tuple[str, ...]:
    """Return the streams of the graph, in the card's order."""
    available = list(card.streams)
    requested = available if streams is None else list(streams)
    if not requested or not set(requested) <= set(available):
        raise CheckpointError(
            card.name, "streams", f"{requested}: can be one or more of {available}"
        )
    chosen = tuple(name for name in available if name in requested)
    if len(chosen) < len(available) and not card.missing_streams:
        raise CheckpointError(
            card.name, "missing_streams", f"is false: the graph needs all streams, {available}"
        )
    return chosen


def _input_shape(card: Card, name: str, steps: int) -> tuple[int, ...]:
    """Return the shape of a stream's input [T or 1, C, H, W].

    It is of 1 frame where the stream's preprocessing gives one for all steps.
    """
    spec, stream = card.streams[name], card.config.streams[name]
    is_one = isinstance(spec, SpectrogramSpec)
    is_one |= isinstance(spec, FrameSpec) and spec.frames == "middle"
    frames = 1 if is_one and card.encoding == "direct" else steps
    return (frames, stream.channels, *stream.size)


def _metadata(network: SCMRL, card: Card, steps: int, streams: tuple[str, ...]) -> dict[str, str]:
    """Return what a client needs beside the graph: labels, preprocessing, T, bias."""
    specs = {name: card.streams[name] for name in streams}
    return {
        "scmrl.name": card.name,
        "scmrl.version": card.version,
        "scmrl.description": card.description,
        "scmrl.weights_sha256": card.sha256,
        "scmrl.labels": json.dumps(card.labels, ensure_ascii=False),
        "scmrl.steps": str(steps),
        "scmrl.encoding": card.encoding,
        "scmrl.streams": TypeAdapter(Specs).dump_json(specs).decode(),
        "scmrl.bias": json.dumps(network.head.bias.tolist()),
        "scmrl.config": card.config.model_dump_json(),
    }


def _export(graph: Graph, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> bytes:
    """Return the graph as a serialized ONNX model."""
    batch = torch.export.Dim("batch", min=1)
    examples = tuple(torch.zeros(2, *shape) for shape in shapes.values())
    outputs = ["logits", "probabilities", *(f"{name}_term" for name in shapes)]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's exporter, about its own insides
        program: Any = torch.onnx.export(
            graph,
            examples,
            input_names=list(shapes),
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            custom_translation_table={torch.ops.scmrl.fire.default: onnx_fire},
            dynamic_shapes=(tuple({0: batch} for _ in shapes),),
            verbose=False,
        )
    program.model.metadata_props.update(metadata)
    data: bytes = program.model_proto.SerializeToString()
    return data


def _compare(
    data: bytes, network: SCMRL, graph: Graph, shapes: dict[str, tuple[int, ...]]
) -> tuple[int, float]:
    """Return how many samples of noise agree with the network, and their largest difference."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand((_SAMPLES, *shape), generator=generator) for shape in shapes.values()]
    steps = graph.steps
    repeated = {
        name: x.transpose(0, 1).expand(steps, -1, -1, -1, -1)
        for name, x in zip(shapes, inputs, strict=True)
    }
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    feeds = {name: x.numpy() for name, x in zip(shapes, inputs, strict=True)}
    logits, _, *terms = (torch.from_numpy(x) for x in session.run(None, feeds))
    with torch.inference_mode():
        expected = network(repeated)
    differences = [(logits - expected.logits).abs().amax(1)]
    differences += [
        (term - of_stream).abs().amax(1)
        for term, of_stream in zip(terms, expected.stream_logits.values(), strict=True)
    ]
    largest = torch.stack(differences).amax(0)  # [samples]
    agrees = largest <= TOLERANCE
    return int(agrees.sum()), float(largest[agrees].max()) if agrees.any() else float("inf")
