"""Net2Net (arXiv 1511.05641): initialize a network from a trained one with fewer channels."""

from __future__ import annotations

import torch
from torch import Tensor

from model.network import SCMRL
from model.network.attention import SpikingAttention
from model.network.cross_attention import QueryKeyAttention

#: Standard deviation of the parts that a weight is split into, relative to their mean. Equal copies
#: would have equal gradients and stay equal.
_NOISE = 0.2


def widen(narrow: SCMRL, wide: SCMRL, seed: int = 0) -> None:
    """Load the weights of `narrow` into `wide`, which has the same layout and k times the channels.

    Every channel is replicated k times, and the weights that take it as input are split among the
    copies. Sums over the copies of queries, which have no weights, are k times as large, and so are
    the thresholds of the neurons that receive them. So the network computes the same, for any T and
    any streams. Raises ValueError where a shape does not fit.
    """
    generator = torch.Generator().manual_seed(seed)
    source = narrow.state_dict()
    target = wide.state_dict()
    if source.keys() != target.keys():
        raise ValueError(f"not the same layout: {sorted(source.keys() ^ target.keys())[:3]}")
    widened = {
        name: widen_tensor(name, x, target[name].shape, generator) for name, x in source.items()
    }  # fmt: skip
    raise_thresholds(widened, narrow, wide)
    wide.load_state_dict(widened)


def raise_thresholds(weights: dict[str, Tensor], narrow: SCMRL, wide: SCMRL) -> None:
    """Multiply the thresholds in `weights` of neurons that receive a sum over the channels of a
    query by the number of copies of a channel."""
    copies = wide.config.embed_dim // narrow.config.embed_dim
    for name, module in wide.named_modules():
        neuron = {SpikingAttention: "lif", QueryKeyAttention: "mask"}.get(type(module))
        threshold = f"{name}.{neuron}.threshold"
        if neuron and threshold in weights:
            weights[threshold] = weights[threshold] * copies


def widen_tensor(name: str, x: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Replicate outputs [out, in, …], then split inputs, up to `shape`. Raises ValueError."""
    if x.shape == shape:
        return x.clone()
    if x.dim() != len(shape) or any(b % a for a, b in zip(x.shape, shape, strict=True)):
        raise ValueError(f"{name}: {list(x.shape)} cannot become {list(shape)}")
    x = x.repeat_interleave(shape[0] // x.shape[0], dim=0)
    if x.shape == shape:
        return x
    copies = shape[1] // x.shape[1]
    parts = 1 + _NOISE * torch.randn((*x.shape[:2], copies, *x.shape[2:]), generator=generator)
    parts = parts / parts.sum(2, keepdim=True)
    return (x.unsqueeze(2) * parts).reshape(shape)
