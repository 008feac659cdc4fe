"""The names that the published implementation gives its weights, mapped onto ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from model.config import STAGES, Config
from model.network import SCMRL

#: Entries that take no part in the published network's answers. (`act_fun.alpha` is the
#: surrogate gradient's steepness, the same everywhere.)
_UNUSED = re.compile(
    r"av_attention\..*|block\.\d+\.norm[12]\..*|.*\.res_lif\..*|.*\.act_fun\.alpha"
)
#: Their short names of a convolution, its batch norm and its neuron, by ours.
_LAYER = {"conv": "conv", "norm": "bn", "lif": "lif"}
_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "proj"}


class PublishedError(ValueError):
    """A published state dict that does not fit: the `entry`, and what is wrong with it."""

    def __init__(self, entry: str, problem: str) -> None:
        super().__init__(f"{entry}: {problem}")
        self.entry = entry
        self.problem = problem


def published_tensors(state_dict: Mapping[str, Tensor], network: SCMRL) -> dict[str, Tensor]:
    """Copies on the CPU of the published weights, under the names of `network`'s state dict.

    `network` gives names and types only, and may be on the meta device. Entries that take no
    part are dropped. Raises PublishedError naming an entry that is missing, unknown or no
    tensor, or `streams` where the configuration has others than the published network.
    """
    theirs = {str(name).removeprefix("module."): x for name, x in state_dict.items()}
    modules = dict(_modules(network.config))
    tensors = {}
    for name, wanted in network.state_dict().items():
        module, _, leaf = name.rpartition(".")
        entry = f"{modules[module]}.{leaf}"
        if entry not in theirs:
            raise PublishedError(entry, "is missing")
        found = theirs.pop(entry)
        if not isinstance(found, Tensor):
            raise PublishedError(entry, f"is no tensor but {type(found).__name__}")
        if not _is_plain(found):
            raise PublishedError(entry, "is no dense tensor of real numbers")
        tensors[name] = found.detach().to("cpu", wanted.dtype, copy=True)
    for entry in theirs:
        if not _takes_no_part(entry, network.config):
            raise PublishedError(entry, "is not part of a published network of this config")
    return tensors


def _is_plain(x: Tensor) -> bool:
    odd = x.is_meta or x.is_nested or x.is_quantized or x.is_complex()
    return x.layout is torch.strided and not odd


def _takes_no_part(entry: str, config: Config) -> bool:
    unread_blocks = len(config.streams) > 1 and config.attention is None
    return bool(_UNUSED.fullmatch(entry)) or (unread_blocks and entry.startswith("block."))


def _modules(config: Config) -> Iterator[tuple[str, str]]:
    """Our name and theirs of every module that has weights or a threshold."""
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
