"""What was decoded to the tensors that a checkpoint takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from model.checkpoint import Card
    from model.preprocess.prepared import Prepared


def encoded(prepared: Mapping[str, Prepared], card: Card, steps: int) -> dict[str, Tensor]:
    """Inputs [T or 1, C, H, W] by stream; direct encoding of one picture stays [1, C, H, W]."""
    import torch

    from model.encoding import encode

    tensors = {name: torch.from_numpy(stream.tensor) for name, stream in prepared.items()}
    if card.encoding == "direct":
        return tensors
    return {name: encode(x, steps, card.encoding) for name, x in tensors.items()}
