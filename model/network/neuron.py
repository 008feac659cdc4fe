"""The leaky integrate-and-fire neuron (LIF) of every layer."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor

#: Membrane time constant of every published neuron, in time steps, above 1. The fused networks take
#: it from the neurons that they fold (model/fused/folding.py). Neither card nor weights store it:
#: another value changes what every existing checkpoint computes.
TAU = 2.0
#: Steepness of the surrogate sigmoid, whose derivative replaces the spike's.
SURROGATE_ALPHA = 4.0


class LIF(neuron.LIFNode):  # type: ignore[misc]  # spikingjelly is untyped
    """spikingjelly's LIF over whole sequences, with the gradient of the published training.

    With x[t] the input current, v[t] the membrane potential and v[0] = 0 (the paper's LIF):

        h[t] = v[t-1] + (x[t] - v[t-1]) / tau
        s[t] = 1 if h[t] >= threshold else 0
        v[t] = h[t] (1 - s[t])

    Backwards, s[t] depends on x[t] alone: membrane potential and reset are detached from one
    step to the next, so ds/dx = surrogate'(h - threshold) / tau.

    Every call starts at rest and keeps no state, so one instance can be used by several threads.
    The threshold is a buffer, because each published checkpoint carries its own.
    """

    threshold: Tensor

    def __init__(self, threshold: float = 1.0) -> None:
        super().__init__(
            tau=TAU,
            decay_input=True,
            v_threshold=threshold,
            v_reset=0.0,
            surrogate_function=surrogate.Sigmoid(alpha=SURROGATE_ALPHA),
            detach_reset=True,
            step_mode="m",
        )
        self.register_buffer("threshold", torch.tensor(threshold))

    @property
    def decay(self) -> float:
        """Share of the membrane potential that is left after a time step: h = decay v + x / tau."""
        return 1.0 - 1.0 / float(self.tau)

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        """Return spikes (0 or 1) of input currents, both [T, ...]."""
        if torch.is_grad_enabled() and x_seq.requires_grad:
            spikes: Tensor = _TruncatedLIF.apply(x_seq, self)  # type: ignore[no-untyped-call]
            return spikes
        return self.fire(x_seq)

    def fire(self, x_seq: Tensor) -> Tensor:
        """Return spikes [T, ...] by spikingjelly's multi-step neuron, without a gradient."""
        spikes: Tensor = functional.lif_multi_step(
            x_seq,
            torch.zeros_like(x_seq[0]),
            self.tau,
            self.decay_input,
            self.v_threshold,
            self.v_reset,
            self.surrogate_function,
            self.detach_reset,
            False,
        )[0]
        return spikes

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.v_threshold = float(self.threshold)


class _TruncatedLIF(torch.autograd.Function):
    """The neuron in training: its gradient stops at the membrane potential of the step before.

    Only the charged potential h is saved for the gradient, and both directions write in place: that
    is twice as fast as spikingjelly's loop on a CPU, where memory is the limit.
    """

    @staticmethod
    def forward(ctx: Any, x_seq: Tensor, lif: LIF) -> Tensor:
        charged = torch.empty_like(x_seq, memory_format=torch.contiguous_format)
        spikes = torch.empty_like(charged)
        torch.mul(x_seq[0], 1.0 / lif.tau, out=charged[0])
        torch.ge(charged[0], lif.v_threshold, out=spikes[0])
        for t in range(1, len(x_seq)):
            potential = torch.addcmul(charged[t - 1], charged[t - 1], spikes[t - 1], value=-1.0)
            torch.sub(x_seq[t], potential, out=charged[t])
            charged[t].div_(lif.tau).add_(potential)
            torch.ge(charged[t], lif.v_threshold, out=spikes[t])
        ctx.save_for_backward(charged)
        ctx.lif = lif
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (charged,) = ctx.saved_tensors
        steepness = ctx.lif.surrogate_function.alpha
        slope = (charged - ctx.lif.v_threshold).mul_(steepness).sigmoid_()
        slope = torch.addcmul(slope, slope, slope, value=-1.0)  # sigmoid' of the surrogate
        return slope.mul_(grads[0]).mul_(steepness / ctx.lif.tau), None


# spikingjelly registers its operator at the first call. Two threads that both make it, as when two
# checkpoints load, can leave one without a schema, which then fails at every call.
with torch.inference_mode():
    LIF().fire(torch.zeros(1, 1))
