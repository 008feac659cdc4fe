"""A trained network with more channels: it begins by computing what the narrow one did."""

from __future__ import annotations

import torch
from torch import Tensor

from model.network import SCMRL

#: How unevenly a weight is shared out: twins that got equal parts would stay equal for ever.
_UNEVEN = 0.2


def widen(narrow: SCMRL, wide: SCMRL, seed: int = 0) -> None:
    """Give `wide` the weights of `narrow`, which has the same layout and a whole fraction of the
    channels (Net2Net, arXiv 1511.05641).

    Each channel becomes twins that fire alike, and what it gave is shared out between them, so
    that convolutions, MLP and head compute the same; products of queries and keys grow with the
    twins, which training has to settle. Raises ValueError where a shape does not fit.
    """
    generator = torch.Generator().manual_seed(seed)
    source = narrow.state_dict()
    target = wide.state_dict()
    if source.keys() != target.keys():
        raise ValueError(f"not the same layout: {sorted(source.keys() ^ target.keys())[:3]}")
    grown = {name: _grown(name, x, target[name].shape, generator) for name, x in source.items()}
    wide.load_state_dict(grown)


def _grown(name: str, x: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if x.shape == shape:
        return x.clone()
    if x.dim() != len(shape) or any(b % a for a, b in zip(x.shape, shape, strict=True)):
        raise ValueError(f"{name}: {list(x.shape)} cannot become {list(shape)}")
    x = x.repeat_interleave(shape[0] // x.shape[0], dim=0)
    if x.shape == shape:
        return x
    twins = shape[1] // x.shape[1]
    shares = 1 + _UNEVEN * torch.randn((*x.shape[:2], twins, *x.shape[2:]), generator=generator)
    shares = shares / shares.sum(2, keepdim=True)
    return (x.unsqueeze(2) * shares).reshape(shape)
