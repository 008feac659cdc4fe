"""The weights that a training starts from: those of a checkpoint (`--init-from`), with some towers
initialized at random (`--new-towers`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from torch import nn

from model import checkpoint
from model.network import SCMRL
from model.training.batch_norm import BATCH_NORMS
from model.training.net2net import widen
from model.training.options import OptionsError, TrainOptions
from model.training.task import check_task
from model.training.transfer import transfer


def load_initial_weights(options: TrainOptions, network: SCMRL, console: Console) -> None:
    """Load the weights of the checkpoint `init_from` into the network.

    The checkpoint may have fewer channels (Net2Net). Where the task transfers, or the layout
    differs, only the parts that fit are loaded. Raises CheckpointError, and OptionsError where
    nothing fits.
    """
    assert options.init_from
    source, source_card = checkpoint.load(options.init_from)
    if not options.task.transfers:
        check_task(options.task, source_card, options.init_from)
    same_layout = source.state_dict().keys() == network.state_dict().keys()
    if options.task.transfers or not same_layout:
        taken = transfer(source, source_card, network, options.task.labels, options.seed)
        if not taken.parts:
            raise OptionsError(f"--init-from {options.init_from}: {taken}")
        console.print(f"--init-from {options.init_from}: {taken}", markup=False)
        return
    try:
        widen(source, network, options.seed)
    except ValueError as exc:
        raise OptionsError(f"--init-from {options.init_from}: {exc}") from exc


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
            if isinstance(module, BATCH_NORMS):
                nn.init.constant_(module.bias, biases[name])


def _tower(network: SCMRL, stream: str) -> nn.ModuleList:
    """Return a stream's patch splitting, and its MLP where the network has one for each stream."""
    return nn.ModuleList(
        module[stream] for module in (network.patch, network.mlp) if stream in module
    )
