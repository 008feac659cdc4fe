"""Towers that begin with new weights in a network whose other parts are of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from model.network import SCMRL
from model.training.batch_norm import NORMS


@contextmanager
def keep_new_towers(network: SCMRL, biases: Mapping[str, float]) -> Iterator[None]:
    """Keep the weights of these streams' patch splitting and MLP through the block, which loads
    others, and set the biases of their batch norms.

    A normalised current of mean 0 and variance 1 reaches the threshold at the first time step in
    2 % of the neurons, since it has to be 2 there (the neuron halves it): most channels of a tower
    that is trained at T = 1 never fire, and then do not learn. With a bias of 1 it is 16 %.
    """
    parts = {name: _tower(network, name) for name in biases}
    kept = {
        name: {key: x.clone() for key, x in part.state_dict().items()}
        for name, part in parts.items()
    }
    yield
    for name, part in parts.items():
        part.load_state_dict(kept[name])
        for module in part.modules():
            if isinstance(module, NORMS):
                nn.init.constant_(module.bias, biases[name])


def _tower(network: SCMRL, stream: str) -> nn.ModuleList:
    """Return a stream's patch splitting, and its MLP where the network has one for each stream."""
    return nn.ModuleList(
        module[stream] for module in (network.patch, network.mlp) if stream in module
    )
