"""The optimizer of a training run: AdamW, with a learning-rate multiplier for each part."""

from __future__ import annotations

import torch
from torch import nn

from model.network import SCMRL
from model.training.options import HEAD, TrainOptions


def configure_optimizer(network: SCMRL, options: TrainOptions) -> torch.optim.Optimizer:
    """Return AdamW with a parameter group for each weight decay and learning-rate multiplier.

    Biases and batch norms, which have one dimension, are not decayed.
    """
    multipliers = {"head.": options.lr_multiplier.get(HEAD, 1.0)}
    for stream in options.task.specs:
        for part in ("patch", "mlp"):
            multipliers[f"{part}.{stream}."] = options.lr_multiplier.get(stream, 1.0)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        multiplier = next((x for part, x in multipliers.items() if name.startswith(part)), 1.0)
        groups.setdefault((parameter.ndim > 1, multiplier), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": options.weight_decay if decayed else 0.0,
                "lr_multiplier": multiplier,
            }
            for (decayed, multiplier), parameters in groups.items()
        ],
        lr=options.learning_rate,
    )
