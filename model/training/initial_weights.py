"""The weights that a training starts from: those of a checkpoint (`--init-from`), with some towers
initialized at random (`--new-towers`), and the parts that another fusion adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

from rich.console import Console
from torch import Tensor, nn

from model import checkpoint
from model.network import SCMRL
from model.network.fusion import CurrentIntegration, TemporalAttention, WeightedAttention
from model.training import cmci_start, new_residual
from model.training.batch_norm import BATCH_NORMS, mark_settled, recompute_batch_norm_statistics
from model.training.net2net import widen
from model.training.options import OptionsError, TrainOptions
from model.training.task import check_task
from model.training.transfer import transfer

#: Clips that give statistics to the norms of new residuals, and ranges to new neurons of CMCI.
_CLIPS = 100


def load_initial_weights(
    options: TrainOptions,
    network: SCMRL,
    console: Console,
    batches: Iterable[Mapping[str, Tensor]],
) -> None:
    """Load the weights of the checkpoint `init_from` into the network.

    The checkpoint may have fewer channels (Net2Net). Where the task transfers, or the layout
    differs, only the parts that fit are loaded. Where the fusion differs, the network starts as the
    sum of the streams as far as its equation permits (`start_as_sum`). `batches` of inputs
    [T, B, C, H, W] of all streams, as in the training, are drawn only where that needs them.
    Raises CheckpointError, and OptionsError where nothing fits.
    """
    assert options.init_from
    source, source_card = checkpoint.load(options.init_from)
    if not options.task.transfers:
        check_task(options.task, source_card, options.init_from)
    same_layout = (
        source.config.fusion == network.config.fusion
        and source.state_dict().keys() == network.state_dict().keys()
    )
    if options.task.transfers or not same_layout:
        transferred = transfer(source, source_card, network, options.task.labels, options.seed)
        if not transferred.parts:
            raise OptionsError(f"--init-from {options.init_from}: {transferred}")
        console.print(f"--init-from {options.init_from}: {transferred}", markup=False)
        few = islice(batches, -(-_CLIPS // options.batch))
        for started in start_as_sum(network, transferred.new, options.steps, few):
            console.print(started, markup=False)
        return
    try:
        widen(source, network, options.seed)
    except ValueError as exc:
        raise OptionsError(f"--init-from {options.init_from}: {exc}") from exc


def start_as_sum(
    network: SCMRL, new: Sequence[str], steps: int, batches: Iterable[Mapping[str, Tensor]]
) -> Iterator[str]:
    """Start the `new` parts of a fusion (`Transferred.new`) so that the network is near the sum of
    the streams, and can learn, at T = `steps`; yield what was done.

    - `weighted`: scores of 0, so that all streams weigh the same.
    - `taaf`: queries of 0, so that all time steps weigh the same; keys as published.
    - `sca`, `cmqka`: residuals that fire (`new_residual`), with statistics of their batch norms.
    - `cmci`: neurons that count how far the logits of the sum have got (`cmci_start`), where the
      head is known and there are two neurons for each class.

    A concatenation has no new part: its head alone differs (`fusion_head`).
    """
    fuse = network.fuse
    received = [part.removeprefix("residual.") for part in new if part.startswith("residual.")]
    firing = [stream for stream in received if new_residual.let_fire(network, stream, steps)]
    if firing:
        residuals = nn.ModuleList(network.residual[stream] for stream in firing)
        recompute_batch_norm_statistics(network, batches, residuals)
        mark_settled(residuals)
        yield f"residual of {', '.join(firing)} starts with a rate of {new_residual.RATE:g}"
    if isinstance(fuse, WeightedAttention) and "fuse.score" in new:
        for score in fuse.score.values():
            for parameter in score.parameters():
                nn.init.zeros_(parameter)
        yield "fuse.score starts with equal weights of all streams"
    if isinstance(fuse, TemporalAttention) and "fuse.query" in new:
        nn.init.zeros_(fuse.query.weight)
        yield "fuse.query starts with equal weights of all time steps"
    knows_sum = "head" not in new and cmci_start.can_start_as_sum(network)
    if isinstance(fuse, CurrentIntegration) and "fuse.current" in new and knows_sum:
        cmci_start.start_as_sum(network, batches)
        mark_settled(fuse)
        yield "fuse.current and head start near the sum of the streams"


@contextmanager
def keep_new_towers(network: SCMRL, biases: Mapping[str, float]) -> Iterator[None]:
    """Keep the weights of these streams' patch splitting and MLP through the block, which loads
    others, and set the biases of their batch norms.

    A normalised current of mean 0 and variance 1 reaches the threshold at the first time step in
    2 % of the neurons, since it has to be 2 there (the neuron halves it): most channels of a tower
    that is trained at T = 1 never fire, and then do not learn. With a bias of 1 it is 16 %.
    """
    parts = {name: _tower(network, name) for name in biases}
    saved = {
        name: {key: x.clone() for key, x in part.state_dict().items()}
        for name, part in parts.items()
    }
    yield
    for name, part in parts.items():
        part.load_state_dict(saved[name])
        for module in part.modules():
            if isinstance(module, BATCH_NORMS):
                nn.init.constant_(module.bias, biases[name])


def _tower(network: SCMRL, stream: str) -> nn.ModuleList:
    """Return a stream's patch splitting, and its MLP where the network has one for each stream."""
    return nn.ModuleList(
        module[stream] for module in (network.patch, network.mlp) if stream in module
    )
