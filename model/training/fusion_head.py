"""The classifier of a network that starts from a checkpoint with another fusion.

Most fusions are a sum of the streams' features f_m (means over tokens and steps) under one head:
logits = W (f_1 + … + f_M) + b. A head of another fusion is made from W so that it answers as that
sum does, or W from it:

- `concat`: [W … W], a block for each stream in the order of the configuration. Its answers are
  those of the sum, with any streams.
- `weighted`: M W. With equal scores each weight is 1 / M, so the answers with all streams are those
  of the sum. With n of M streams the weights are 1 / n, and the term of each is M / n times that of
  the sum, as the equation has it.
- `add`, `sca`, `cmqka`, `taaf`: W. Those of `taaf` are the sum's where all steps weigh the same.
- `cmci`: none, since its head reads firing rates (`cmci_start`).

A concatenation whose blocks differ is no sum: W is then their mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import Config
from model.network import SCMRL


def is_of_features(config: Config) -> bool:
    """Whether the head reads features of the streams, and not firing rates of shared neurons."""
    return len(config.streams) == 1 or config.fusion != "cmci"


def by_stream(network: SCMRL) -> dict[str, Tensor]:
    """Return the weights W_m [classes, C] of each stream's features in the logits.

    Those of `weighted` are with equal scores. Raises ValueError where the head reads no features.
    """
    config, weight = network.config, network.head.weight.detach()
    names = list(config.streams)
    if not is_of_features(config):
        raise ValueError(f"{config.fusion}: its head reads firing rates")
    if len(names) > 1 and config.fusion == "concat":
        return dict(zip(names, weight.split(config.embed_dim, 1), strict=True))
    if len(names) > 1 and config.fusion == "weighted":
        weight = weight / len(names)
    return dict.fromkeys(names, weight)


def joined(weights: Mapping[str, Tensor], config: Config) -> Tensor:
    """Return the weight of the head of a network of `config`, from the weights W_m [classes, C] of
    streams: [classes, C], or [classes, M C] of a concatenation.

    A stream that `weights` lacks gets the mean of the others. For `cmci` it is the head of the sum.
    """
    mean = torch.stack([x.double() for x in weights.values()]).mean(0).float()
    names = list(config.streams)
    if len(names) == 1:
        return weights.get(names[0], mean)
    if config.fusion == "concat":
        return torch.cat([weights.get(name, mean) for name in names], 1)
    return mean * len(names) if config.fusion == "weighted" else mean
