"""Networks whose every layer fires, for tests that need no trained weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.config import Config
from model.network import SCMRL


def lively(config: Config, seed: int = 0) -> SCMRL:
    """A network in eval mode with random weights, statistics and thresholds; every layer fires.

    Values come from numpy's RandomState, which is frozen: they are the same everywhere.
    """
    network = SCMRL(config).eval()
    random = np.random.RandomState(seed)
    weights = {name: _weights(name, x, random) for name, x in network.state_dict().items()}
    network.load_state_dict(weights)
    return network


def noise(config: Config, *, steps: int, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs [T, B, C, H, W] for every stream."""
    random = np.random.RandomState(seed)
    return {
        name: torch.from_numpy(
            random.standard_normal((steps, batch, stream.channels, *stream.size))
        ).float()
        for name, stream in config.streams.items()
    }


def _weights(name: str, x: Tensor, random: np.random.RandomState) -> Tensor:
    """Values for one entry, exact in float16."""
    if name.endswith("num_batches_tracked"):
        return x
    shape = tuple(x.shape)
    if name.endswith(("threshold", "gain")):
        values = random.uniform(0.9, 1.1, shape)
    elif name.endswith(("norm.weight", "running_var")):
        values = random.uniform(1.0, 1.6, shape)
    elif name.endswith(("query.norm.bias", "key.norm.bias", "value.norm.bias")):
        values = random.normal(1.3, 0.3, shape)  # many, so that their products fire as well
    elif name.endswith(("align.bias", "norm.bias")):
        values = random.normal(0.7, 0.3, shape)
    elif name.endswith(("bias", "running_mean")):
        values = random.normal(0, 0.2, shape)
    else:
        # The alignment's inputs are products of two means, and small.
        gain = 12.0 if name.endswith("align.weight") else 1.5
        values = random.normal(0, gain / np.sqrt(x[0].numel()), shape)
    return torch.tensor(values, dtype=torch.float16).float()
