"""Check whether bfloat16 agrees with float32 in training a network."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from model.network import SCMRL

#: Least cosine similarity of the gradients of one batch. Below it, spikes that flip at the
#: threshold by rounding turn the step to another direction.
MIN_COSINE = 0.9


def bfloat16_agrees(network: SCMRL, inputs: dict[str, Tensor], labels: Tensor) -> bool:
    """Return whether a step in bfloat16 has the direction of one in float32.

    Compares the gradients of the cross-entropy of a batch [T, B, C, H, W]; the network stays as it
    is.
    """
    device = labels.device
    gradients = []
    for enabled in (False, True):
        trial = deepcopy(network).train()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            logits = trial(inputs).logits
        cross_entropy(logits.float(), labels).backward()
        present = [x.grad.flatten() for x in trial.parameters() if x.grad is not None]
        gradients.append(torch.cat(present))
    exact, rounded = gradients
    return bool(rounded.isfinite().all()) and bool(
        cosine_similarity(exact, rounded, dim=0) >= MIN_COSINE
    )
