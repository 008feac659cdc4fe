"""The input tensors of `Engine.run`: of prepared clips, and blank ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model.config import Config
from model.encoding import Encoding, encode
from model.preprocess.prepared import Prepared


def encode_clip(
    prepared: Mapping[str, Prepared], encoding: Encoding, steps: int
) -> dict[str, Tensor]:
    """Encode one clip for `steps` time steps: float32 [T or 1, C, H, W] by stream.

    With direct encoding a single frame stays [1, C, H, W], which the engine computes once instead
    of T times.
    """
    values = {name: torch.from_numpy(stream.tensor) for name, stream in prepared.items()}
    if encoding == "direct":
        return values
    return {name: encode(x, steps, encoding) for name, x in values.items()}


def stack_clips(clips: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack encoded clips that have the same streams: [T or 1, B, C, H, W] by stream.

    Where some clips have a single frame of a stream and others T, the single ones are repeated.
    """
    batch = {}
    for name in clips[0]:
        tensors = [clip[name] for clip in clips]  # [T or 1, C, H, W] each
        steps = max(len(x) for x in tensors)
        batch[name] = torch.stack([x.expand(steps, *x.shape[1:]) for x in tensors], dim=1)
    return batch


def encode_batch(
    clips: Sequence[Mapping[str, Prepared]], encoding: Encoding, steps: int
) -> dict[str, Tensor]:
    """Encode and stack clips that have the same streams: [T or 1, B, C, H, W] by stream."""
    return stack_clips([encode_clip(clip, encoding, steps) for clip in clips])


def zeros(config: Config, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
    """Return blank inputs [1, B, C, H, W] of all streams, by default on the CPU."""
    return {
        name: torch.zeros(1, batch, stream.channels, *stream.size, device=device)
        for name, stream in config.streams.items()
    }
