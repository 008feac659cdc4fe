"""The input tensors of `Engine.run`: of prepared clips, and blank ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.arrays import Float32Array
from model.config import Config
from model.encoding import Encoding, encode_clip
from model.preprocess.prepared import Prepared

#: Returns an uninitialized array of a shape and type.
Allocate: TypeAlias = Callable[[Sequence[int], str], NDArray[Any]]


def stack_clips(
    clips: Sequence[Mapping[str, Float32Array]], allocate: Allocate = np.empty
) -> dict[str, Tensor]:
    """Stack encoded clips that have the same streams: [T or 1, B, C, H, W] by stream.

    Where some clips have a single frame of a stream and others T, the single ones are repeated.
    `allocate` returns the memory of a stream, and may raise MemoryError.
    """
    batch = {}
    for name in clips[0]:
        arrays = [clip[name] for clip in clips]  # [T or 1, C, H, W] each
        steps = max(len(x) for x in arrays)
        repeated = [np.broadcast_to(x, (steps, *x.shape[1:])) for x in arrays]
        stacked = allocate((steps, len(clips), *arrays[0].shape[1:]), "float32")
        batch[name] = torch.from_numpy(np.stack(repeated, axis=1, out=stacked))
    return batch


def encode_batch(
    clips: Sequence[Mapping[str, Prepared]], encoding: Encoding, steps: int
) -> dict[str, Tensor]:
    """Encode and stack clips that have the same streams: [T or 1, B, C, H, W] by stream."""
    return stack_clips([encode_clip(clip, encoding, steps) for clip in clips])


def hold(inputs: Mapping[str, Tensor], steps: int) -> dict[str, Tensor]:
    """Return inputs [T or 1, ...] by stream for `steps` time steps: a single one is repeated.

    These are views, which take no memory of their own.
    """
    return {name: x.expand(steps, *x.shape[1:]) for name, x in inputs.items()}


def noise(config: Config, batch: int) -> dict[str, Tensor]:
    """Return random inputs [1, B, C, H, W] of all streams, from 0 to 1, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand((1, batch, s.channels, *s.size), generator=generator)
        for name, s in config.streams.items()
    }


def zeros(config: Config, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
    """Return blank inputs [1, B, C, H, W] of all streams, by default on the CPU."""
    return {
        name: torch.zeros(1, batch, stream.channels, *stream.size, device=device)
        for name, stream in config.streams.items()
    }
