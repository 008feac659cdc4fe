"""The statistics of batch norms: frozen, or settled after an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from model.network import SCMRL

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
#: Batches after which less than 1 % of a running statistic is its initial value (0.9 ** 44).
MIN_BATCHES = 44


def freeze_batch_norm(network: SCMRL) -> None:
    """Let batch norms use their running statistics, and not change them."""
    for module in network.modules():
        if isinstance(module, BATCH_NORMS):
            module.eval()


def mark_settled(part: nn.Module) -> None:
    """Count the batches of norms whose running statistics began as those of clips, not as 0 and 1,
    as if they had seen MIN_BATCHES: nothing of an initial value is left in them."""
    for module in part.modules():
        if isinstance(module, BATCH_NORMS) and module.num_batches_tracked is not None:
            module.num_batches_tracked.fill_(MIN_BATCHES)


@torch.no_grad()
def recompute_batch_norm_statistics(
    network: SCMRL, batches: Iterable[Mapping[str, Tensor]], part: nn.Module | None = None
) -> None:
    """Replace the running statistics by the mean over these batches [T, B, C, H, W] by stream; with
    `part`, those of this part of the network alone, while the rest is as in evaluation.

    A running mean lags behind the weights, and after few batches it is still near its initial
    values; a network that is served with it answers otherwise than it was trained to.
    """
    settled = network if part is None else part
    norms = [module for module in settled.modules() if isinstance(module, BATCH_NORMS)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    settled.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative mean
    for inputs in batches:
        network(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
