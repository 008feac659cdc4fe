"""Semantic alignment optimisation (SAO): the contrastive loss between streams."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


def pair_loss(rows: Tensor, columns: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the alignment loss of two streams (the paper's L_sao).

    `rows` and `columns` are residuals [T, B, C], `labels` [B]. With f their means over T and
    S = f_rows f_columns^T / temperature, not normalised:

        L = -(1 / B^2) sum_ij [y_i = y_j] log_softmax_j(S_i)
    """
    similarity = rows.mean(0) @ columns.mean(0).T / temperature  # [B, B]
    same = labels[:, None] == labels[None, :]
    return -(log_softmax(similarity, dim=1) * same).mean()


def alignment_loss(
    residuals: Mapping[str, Tensor], labels: Tensor, temperature: float = 0.07
) -> Tensor:
    """Return the sum of `pair_loss` over the pairs of streams, in the network's order.

    0 where fewer than two streams have a residual.
    """
    loss = torch.zeros((), device=labels.device)
    for (_, rows), (_, columns) in combinations(residuals.items(), 2):
        loss = loss + pair_loss(rows, columns, labels, temperature)
    return loss
