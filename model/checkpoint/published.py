"""Import checkpoints of the published implementation: map its weight names to ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint.card import CheckpointError
from model.checkpoint.checkpoint import build, describe, empty_network
from model.checkpoint.torch_file import StoredTensor, TorchFile, open_torch_file
from model.config import STAGES, Config
from model.network import SCMRL

#: Entries that the published network does not use. (`act_fun.alpha` is the
#: surrogate gradient's steepness, the same everywhere.)
_UNUSED = re.compile(
    r"av_attention\..*|block\.\d+\.norm[12]\..*|.*\.res_lif\..*|.*\.act_fun\.alpha"
)
#: Published suffixes of a convolution, its batch norm and its neuron, by our names.
_LAYER = {"conv": "conv", "norm": "bn", "lif": "lif"}
#: Entries that an error names beside the first one.
_SHOWN = 7
_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "proj"}


class PublishedError(ValueError):
    """A published state dict that does not fit: the `entry`, and what is wrong with it."""

    def __init__(self, entry: str, problem: str) -> None:
        super().__init__(f"{entry}: {problem}")
        self.entry = entry
        self.problem = problem


def import_published(state_dict: Mapping[str, Tensor], config: Config) -> SCMRL:
    """Return the network of a published checkpoint's weights, in eval mode on the CPU.

    Raises CheckpointError naming the entries that are missing, unknown or of another shape.
    """
    return fit_published(state_dict, config, "state_dict")[0]


def import_published_file(path: Path | str, config: Config) -> SCMRL:
    """Return the network of a published `.pth.tar`. No code from the file is run.

    Raises CheckpointError naming the file and the entries.
    """
    file = Path(path)
    with open_torch_file(file) as opened:
        return fit_published(read_state_dict(opened, file), config, file)[0]


def read_state_dict(opened: TorchFile, file: Path) -> dict[str, Any]:
    """Return the weights of a training's checkpoint, or of a file that has nothing else.

    Tensors are in the file's own memory. Raises CheckpointError where there are none.
    """
    content = opened.content
    state = content.get("state_dict") if isinstance(content, dict) else None
    if isinstance(content, dict) and "state_dict" not in content:
        weights = [value for value in content.values() if isinstance(value, StoredTensor)]
        state = content if len(weights) == len(content) else None
    if not state or not isinstance(state, dict):
        raise CheckpointError(file, "state_dict", "is missing")
    return {
        str(name).removeprefix("module."): opened.tensor(x) if isinstance(x, StoredTensor) else x
        for name, x in state.items()
    }


def fit_published(
    state_dict: Mapping[str, Any], config: Config, file: Path | str
) -> tuple[SCMRL, list[str]]:
    """Return the network of published weights, and the names of entries that take no part in it.

    Raises CheckpointError naming `file` and the entries that do not fit.
    """
    try:
        tensors, unused = _rename_tensors(state_dict, empty_network(config))
    except PublishedError as exc:
        raise CheckpointError(file, exc.entry, exc.problem) from exc
    return build(config, tensors, file), unused


def _rename_tensors(
    state_dict: Mapping[str, Any], network: SCMRL
) -> tuple[dict[str, Tensor], list[str]]:
    """Return copies on the CPU of the published weights, named as in `network`'s state dict.

    Only names, shapes and types of `network` are read: it may be on the meta device. The second
    value are the entries that the published network does not use. Raises PublishedError naming the
    entries that are missing, unknown, not a tensor or of another shape, or `streams` where
    `network` has other streams.
    """
    published = {str(name).removeprefix("module."): x for name, x in state_dict.items()}
    modules = dict(_modules(network.config))
    tensors, problems = {}, {}
    for name, like in network.state_dict().items():
        module, _, leaf = name.rpartition(".")
        entry = f"{modules[module]}.{leaf}"
        tensor = published.pop(entry, None)
        problem = _misfit(tensor, like)
        if problem:
            problems[entry] = problem
        else:
            tensors[name] = tensor.detach().to("cpu", like.dtype, copy=True)
    unused = [entry for entry in published if _is_unused(entry, network.config)]
    for entry in published.keys() - set(unused):
        problems[entry] = "is not part of a published network of this config"
    if problems:
        raise _combined(problems)
    return tensors, unused


def _misfit(tensor: Any, like: Tensor) -> str:
    """Return what keeps an entry from being used as `like`; nothing where it fits."""
    if tensor is None:
        return f"is missing; the config needs {describe(like)}"
    if not isinstance(tensor, Tensor):
        return f"is not a tensor but a {type(tensor).__name__}"
    if not _is_dense_real(tensor):
        return "is not a dense tensor of real numbers"
    if tensor.shape != like.shape:
        return f"is {describe(tensor)}, but the config needs {describe(like)}"
    return ""


def _combined(problems: Mapping[str, str]) -> PublishedError:
    """Return one error for all entries that do not fit: the first, and up to as many more."""
    (entry, problem), *others = problems.items()
    shown = [f"{name} {text}" for name, text in others[:_SHOWN]]
    rest = [f"and {len(others) - _SHOWN} more"] if len(others) > _SHOWN else []
    return PublishedError(entry, "; ".join([problem, *shown, *rest]))


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


def _patches(config: Config, stream: str, published: str) -> Iterator[tuple[str, str]]:
    for index in range(STAGES[config.streams[stream].splitting]):
        for part, published_part in _LAYER.items():
            yield (
                f"patch.{stream}.stages.{index}.{part}",
                f"{published}.proj_{published_part}{index or ''}",
            )
    yield from _layer(f"patch.{stream}.position", f"{published}.rpe")


def _residual(config: Config, name: str, published: str) -> Iterator[tuple[str, str]]:
    if config.attention == "spatial-temporal":
        for kind in ("spatial", "temporal"):
            yield from _attention(f"{name}.attention.{kind}", f"{published}.attn.{kind}_attn")
    else:
        yield from _attention(f"{name}.attention.{config.attention}", f"{published}.attn")
    if config.alignment:
        yield f"{name}.align", f"{published}.trans_linear"
        yield f"{name}.lif", f"{published}.trans_lif"


def _attention(name: str, published: str) -> Iterator[tuple[str, str]]:
    yield f"{name}.lif", f"{published}.attn_lif"
    for part, published_part in _PROJECTIONS.items():
        yield from _layer(f"{name}.{part}", f"{published}.{published_part}")


def _mlp(name: str, published: str) -> Iterator[tuple[str, str]]:
    yield from _layer(f"{name}.expand", f"{published}.fc1")
    yield from _layer(f"{name}.contract", f"{published}.fc2")


def _layer(name: str, published: str) -> Iterator[tuple[str, str]]:
    for part, published_part in _LAYER.items():
        yield f"{name}.{part}", f"{published}_{published_part}"
