"""Import checkpoints of the published implementation: map its weight names to ours."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint.card import CheckpointError
from model.checkpoint.checkpoint import build, empty_network
from model.config import STAGES, Config
from model.network import SCMRL

#: Entries that the published network does not use. (`act_fun.alpha` is the
#: surrogate gradient's steepness, the same everywhere.)
_UNUSED = re.compile(
    r"av_attention\..*|block\.\d+\.norm[12]\..*|.*\.res_lif\..*|.*\.act_fun\.alpha"
)
#: Published suffixes of a convolution, its batch norm and its neuron, by our names.
_LAYER = {"conv": "conv", "norm": "bn", "lif": "lif"}
_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "proj"}


class PublishedError(ValueError):
    """A published state dict that does not fit: the `entry`, and what is wrong with it."""

    def __init__(self, entry: str, problem: str) -> None:
        super().__init__(f"{entry}: {problem}")
        self.entry = entry
        self.problem = problem


def import_published(state_dict: Mapping[str, Tensor], config: Config) -> SCMRL:
    """Return the network of a published checkpoint's weights, in eval mode on the CPU.

    Raise CheckpointError naming the entry that is missing, unknown or of another shape.
    """
    return _import(state_dict, config, "state_dict")


def import_published_file(path: Path | str, config: Config) -> SCMRL:
    """Return the network of a published `.pth.tar`. No code from the file is run.

    Raise CheckpointError naming the file and the entry.
    """
    file = Path(path)
    try:
        # Their files hold the command line as an argparse.Namespace, which is plain data.
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as exc:
        raise CheckpointError(file, "", exc.strerror or str(exc)) from exc
    except Exception as exc:  # the unpickler raises many kinds of errors for damaged bytes
        # torch's message advises to load with weights_only=False, which would run the file's code.
        raise CheckpointError(
            file, "", "is damaged, or holds more than tensors and plain data"
        ) from exc
    state_dict = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state_dict, dict):
        raise CheckpointError(file, "state_dict", "is missing")
    return _import(state_dict, config, file)


def _import(state_dict: Mapping[str, Tensor], config: Config, file: Path | str) -> SCMRL:
    try:
        tensors = _rename_tensors(state_dict, empty_network(config))
    except PublishedError as exc:
        raise CheckpointError(file, exc.entry, exc.problem) from exc
    return build(config, tensors, file)


def _rename_tensors(state_dict: Mapping[str, Tensor], network: SCMRL) -> dict[str, Tensor]:
    """Return copies on the CPU of the published weights, named as in `network`'s state dict.

    Only names and types of `network` are read: it may be on the meta device. Entries that the
    published network does not use are dropped. Raise PublishedError naming an entry that is
    missing, unknown or not a tensor, or `streams` where `network` has other streams.
    """
    published = {str(name).removeprefix("module."): x for name, x in state_dict.items()}
    modules = dict(_modules(network.config))
    tensors = {}
    for name, like in network.state_dict().items():
        module, _, leaf = name.rpartition(".")
        entry = f"{modules[module]}.{leaf}"
        if entry not in published:
            raise PublishedError(entry, "is missing")
        tensor = published.pop(entry)
        if not isinstance(tensor, Tensor):
            raise PublishedError(entry, f"is not a tensor but a {type(tensor).__name__}")
        if not _is_dense_real(tensor):
            raise PublishedError(entry, "is not a dense tensor of real numbers")
        tensors[name] = tensor.detach().to("cpu", like.dtype, copy=True)
    for entry in published:
        if not _is_unused(entry, network.config):
            raise PublishedError(entry, "is not part of a published network of this config")
    return tensors


def _is_dense_real(x: Tensor) -> bool:
    is_special = x.is_meta or x.is_nested or x.is_quantized or x.is_complex()
    return x.layout is torch.strided and not is_special


def _is_unused(entry: str, config: Config) -> bool:
    unread_blocks = len(config.streams) > 1 and config.attention is None
    return bool(_UNUSED.fullmatch(entry)) or (unread_blocks and entry.startswith("block."))


def _modules(config: Config) -> Iterator[tuple[str, str]]:
    """Yield our name and the published name of every module with weights or a threshold."""
    yield "head", "head"
    if len(config.streams) == 1:
        yield from _single(config)
        return
    names = list(config.streams)
    if sorted(names) != ["audio", "visual"]:
        raise PublishedError("streams", f"{names}, but published networks have audio and visual")
    if config.fusion == "concat" and names != ["audio", "visual"]:
        raise PublishedError("streams", f"{names}, but published networks concatenate audio first")
    for index, (target, source) in enumerate((("audio", "visual"), ("visual", "audio"))):
        yield from _patches(config, target, f"{target}_patch_embed")
        yield from _mlp(f"mlp.{target}", f"mlp.{index}.mlp")
        if config.attention is not None:
            yield from _residual(config, f"residual.{target}.{source}", f"block.{index}")


def _single(config: Config) -> Iterator[tuple[str, str]]:
    (name,) = config.streams
    yield from _patches(config, name, "patch_embed")
    for index in range(config.depth):
        yield from _attention(f"blocks.{index}.attention", f"block.{index}.attn")
        yield from _mlp(f"blocks.{index}.mlp", f"block.{index}.mlp")


def _patches(config: Config, stream: str, theirs: str) -> Iterator[tuple[str, str]]:
    for index in range(STAGES[config.streams[stream].splitting]):
        for our, their in _LAYER.items():
            yield f"patch.{stream}.stages.{index}.{our}", f"{theirs}.proj_{their}{index or ''}"
    yield from _layer(f"patch.{stream}.position", f"{theirs}.rpe")


def _residual(config: Config, ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    if config.attention == "spatial-temporal":
        for kind in ("spatial", "temporal"):
            yield from _attention(f"{ours}.attention.{kind}", f"{theirs}.attn.{kind}_attn")
    else:
        yield from _attention(f"{ours}.attention.{config.attention}", f"{theirs}.attn")
    if config.alignment:
        yield f"{ours}.align", f"{theirs}.trans_linear"
        yield f"{ours}.lif", f"{theirs}.trans_lif"


def _attention(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.lif", f"{theirs}.attn_lif"
    for our, their in _PROJECTIONS.items():
        yield from _layer(f"{ours}.{our}", f"{theirs}.{their}")


def _mlp(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield from _layer(f"{ours}.expand", f"{theirs}.fc1")
    yield from _layer(f"{ours}.contract", f"{theirs}.fc2")


def _layer(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for our, their in _LAYER.items():
        yield f"{ours}.{our}", f"{theirs}_{their}"
