"""Encode values as spikes over time steps: direct, rate and latency encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Encoding = Literal["direct", "rate", "latency"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)


def encode(values: Tensor, steps: int, encoding: Encoding, *, seed: int = 0) -> Tensor:
    """Encode one stream of one clip, [T or 1, ...], for `steps` time steps, [steps, ...].

    - `direct`: the values are the input current of the first layer at each step, as published. A
      single step is repeated as a view, without memory of its own.
    - `rate`: Poisson (Bernoulli) encoding: a spike with the value's probability, independently at
      each step. The generator has a fixed `seed`, so that a clip always has the same answer.
    - `latency`: one spike at step (T - 1)(1 - x), rounded: larger values fire earlier. x is the
      mean over the steps of `values`.

    Values of rate and latency encoding are clipped to [0, 1]. Raises ValueError for an unknown
    encoding, or if `values` has neither 1 nor `steps` time steps.
    """
    if len(values) not in (1, steps):
        raise ValueError(f"{len(values)} time steps; expected 1 or {steps}")
    if encoding == "direct":
        return values.expand(steps, *values.shape[1:])
    if encoding == "rate":
        return _encode_rate(values, steps, seed)
    if encoding == "latency":
        return _encode_latency(values, steps)
    raise ValueError(f"unknown encoding {encoding!r}; choose {', '.join(ENCODINGS)}")


def _encode_rate(values: Tensor, steps: int, seed: int) -> Tensor:
    import torch  # not at the top: cards name an encoding without torch

    generator = torch.Generator().manual_seed(seed)
    thresholds = torch.rand((steps, *values.shape[1:]), generator=generator)  # in [0, 1)
    return (thresholds < values.cpu()).to(values)  # 0 never fires, 1 always does


def _encode_latency(values: Tensor, steps: int) -> Tensor:
    import torch

    spike_step = ((steps - 1) * (1 - values.mean(0).clamp(0, 1))).round()
    step = torch.arange(steps, device=values.device).reshape(-1, *[1] * spike_step.ndim)
    return (step == spike_step).to(values)
