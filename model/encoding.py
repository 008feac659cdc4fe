"""Values to spikes over time steps: direct, rate and latency encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Encoding = Literal["direct", "rate", "latency"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)


def encode(values: Tensor, steps: int, encoding: Encoding, *, seed: int = 0) -> Tensor:
    """One stream of one clip, [T or 1, ...], for `steps` time steps, [steps, ...].

    - `direct`: the values themselves are the first layer's input current at each step (as
      published); a single one is held, as a view that takes no memory.
    - `rate`: spikes of a Poisson process: 1 with the value's probability, drawn anew at each
      step by a generator of `seed`, so that a clip has one answer.
    - `latency`: one spike, the earlier the larger the value: at step (T - 1)(1 - x), rounded.
      Of a moving picture x is the mean over its steps.

    Rate and latency take values in [0, 1]; others are clipped to it. Raises ValueError for an
    unknown encoding, or where `values` has neither 1 nor `steps` time steps.
    """
    if len(values) not in (1, steps):
        raise ValueError(f"{len(values)} time steps, but 1 or {steps} are needed")
    if encoding == "direct":
        return values.expand(steps, *values.shape[1:])
    if encoding == "rate":
        return _rate(values, steps, seed)
    if encoding == "latency":
        return _latency(values, steps)
    raise ValueError(f"encoding {encoding!r}: can be {', '.join(ENCODINGS)}")


def _rate(values: Tensor, steps: int, seed: int) -> Tensor:
    import torch  # at first use: cards name an encoding without torch

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand((steps, *values.shape[1:]), generator=generator)
    return (drawn < values.cpu()).to(values)  # [0, 1): 0 never fires and 1 always


def _latency(values: Tensor, steps: int) -> Tensor:
    import torch

    at = ((steps - 1) * (1 - values.mean(0).clamp(0, 1))).round()
    step = torch.arange(steps, device=values.device).reshape(-1, *[1] * at.ndim)
    return (step == at).to(values)
