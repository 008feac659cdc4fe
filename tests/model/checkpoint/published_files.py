"""Files as the published training writes them, of networks of ours."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint.published import _modules
from model.network import SCMRL

#: Entries of published checkpoints that their networks do not use.
UNUSED = {
    "av_attention.fc.weight": torch.zeros(3, 2),
    "block.0.norm1.weight": torch.zeros(2),
    "block.1.norm2.bias": torch.zeros(2),
    "block.0.attn.spatial_attn.res_lif.threshold": torch.tensor(1.0),
    "head.act_fun.alpha": torch.tensor(4.0),
}
#: The part of the command line that decides what a network computes, and some more of it.
ARGUMENTS: dict[str, Any] = {
    "dataset": "CREMAD", "model": "AVspikformer", "modality": "audio-visual", "step": 3,
    "interaction": "Add", "cross_attn": True, "attn_method": "SpatialTemporal", "alpha": 0.75,
    "num_heads": 4, "node_type": "LIFNode", "tau": 2.0, "threshold": 0.5, "encode": "direct",
    "event_size": 48, "seed": 42, "lr": 0.000625, "batch_size": 128,
}  # fmt: skip


def theirs(network: SCMRL) -> dict[str, Tensor]:
    """The weights of a network as a published checkpoint names them."""
    modules = dict(_modules(network.config))
    named = {}
    for name, x in network.state_dict().items():
        module, _, leaf = name.rpartition(".")
        named[f"{modules[module]}.{leaf}"] = x.clone()
    return named


def write(
    file: Path,
    state_dict: dict[str, Any],
    arguments: dict[str, Any] | None = ARGUMENTS,
    *,
    zipped: bool = True,
    **others: Any,
) -> Path:
    """Write what timm's CheckpointSaver writes; `others` are more parts of it, or other ones."""
    parameter = torch.nn.Parameter(torch.zeros(5))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    content = {
        "epoch": 57,
        "arch": "AVspikformer",
        "state_dict": state_dict,
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "metric": 97.36328125,
    }
    if arguments is not None:
        content["args"] = Namespace(**arguments)
    torch.save(content | others, file, _use_new_zipfile_serialization=zipped)
    return file
