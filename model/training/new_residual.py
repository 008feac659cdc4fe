"""New cross-modal residuals that fire from the first training step on (SCA, CMQKA).

With the usual weights they are silent: a normalised current, of mean 0 and variance 1, reaches the
threshold in 2 % of the neurons at T = 1, a product of queries, keys and values of that rate reaches
it never, and without spikes there is next to no gradient. The biases of the batch norms decide the
rates, so they are set here.
"""

from __future__ import annotations

from statistics import NormalDist

from torch import nn

from model.network import SCMRL
from model.network.attention import SCALE, Projection, SpikingAttention
from model.network.cross_attention import QueryKeyAttention, SpikingCrossAttention
from model.network.neuron import LIF

#: Mean of a new residual per token, channel and step: near that of the trained ones of S-CMRL,
#: which have 0.01 to 0.05.
RATE = 0.03
#: Highest rate of queries, keys and values: above it silence would carry the information.
_HIGHEST_RATE = 0.5


def let_fire(network: SCMRL, target: str, steps: int) -> bool:
    """Set the biases of the norms of the residuals that a stream receives, for T = `steps`; return
    whether there are any of these kinds.

    Queries, keys and values get the rate p with which the mean current of the neuron that receives
    their product is the one at which it fires at once, tau times its threshold. With N tokens of
    the source and d channels of a head:

        SCA:    0.25 N d p^3 = tau threshold
        CMQKA:  d p = tau threshold

    The output gets the rate RATE. A residual of S-CMRL stays as it is: its alignment has no norm.
    """
    for source, residual in network.residual[target].items():  # type: ignore[operator]
        channels = network.config.embed_dim // network.config.heads
        tokens = network.config.streams[source].tokens
        if isinstance(residual, SpikingCrossAttention):
            attention: SpikingAttention | QueryKeyAttention = residual.attention
            needed = _current(residual.attention.lif) / (SCALE * tokens * channels)
            rate, inputs = needed ** (1 / 3), [residual.attention.value]
        elif isinstance(residual, QueryKeyAttention):
            attention, rate, inputs = residual, _current(residual.mask) / channels, []
        else:
            return False
        for projection in (attention.query, attention.key, *inputs):
            _fire(projection, min(rate, _HIGHEST_RATE), steps)
        _fire(attention.out, RATE, steps)
    return True


def bias_of(rate: float, steps: int, lif: LIF) -> float:
    """Return the mean of a normal current of variance 1, constant over T = `steps`, with which a
    neuron fires at this rate per step, above 0 and below 1.

    A constant current x reaches the threshold at step n, and then every n steps, where n is the
    first with x (1 - decay^n) >= threshold.
    """
    reached = [lif.v_threshold / (1 - lif.decay**n) for n in range(1, steps + 1)]
    low, high = -20.0, 20.0 + reached[0]
    for _ in range(60):
        bias = (low + high) / 2
        by = [0.0, *(NormalDist().cdf(bias - current) for current in reached)]
        spikes = sum((by[n] - by[n - 1]) * (steps // n) for n in range(1, steps + 1))
        low, high = (bias, high) if spikes / steps < rate else (low, bias)
    return (low + high) / 2


def _current(lif: LIF) -> float:
    """Return the current at which a neuron fires at once: tau times its threshold."""
    return float(lif.v_threshold / (1 - lif.decay))


def _fire(projection: Projection, rate: float, steps: int) -> None:
    nn.init.constant_(projection.norm.bias, bias_of(rate, steps, projection.lif))
