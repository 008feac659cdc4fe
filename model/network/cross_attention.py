"""Cross-modal attentions of other papers: each makes the residual of a source in a target stream.

Each docstring gives the equation that is computed, and says which parts of it are a reconstruction
rather than the paper's own, whose full text was not at hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import Config
from model.network.attention import Maps, Projection, SpikingAttention
from model.network.neuron import LIF


class SpikingCrossAttention(nn.Module):
    """Spiking cross-attention (SCA), the fusion of the spiking multimodal transformer SMMT
    (L. Guo et al., IEEE TCDS 16(3), 2024), a baseline of the S-CMRL paper.

    Queries are of the target, keys and values of the source, all spikes, and there is no softmax.
    With x the tokens [T, B, C, N], heads h and the same neurons as in S-CMRL, the residual r is

        r = P(LIF(0.25 Q K^T V)),   Q = P_q(x_target), K = P_k(x_source), V = P_v(x_source)

    where each P is a linear map over channels, batch norm and neuron. Returns spikes r of the
    target's shape; the target's tokens become x + r. That the output is a residual, and that the
    streams are then added, is a reconstruction.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = SpikingAttention(config.embed_dim, config.heads, "spatial")

    def forward(self, target: Tensor, source: Tensor, maps: bool) -> tuple[Tensor, Maps]:
        residual: tuple[Tensor, Maps] = self.attention(target, source, maps)
        return residual


class QueryKeyAttention(nn.Module):
    """Cross-modal query-key attention (CMQKA) of SNNergy (arXiv 2602.00701), linear in tokens.

    The query of the target decides, for each head h and token n, whether the source's key passes.
    With Q = P_q(x_target) and K = P_k(x_source) spikes [T, B, C, N], the residual is

        a[h, n] = LIF(sum of Q[c, n] over the channels c of h)
        r[c, n] = gain * P_out(a[h(c), n] K[c, n])

    There is neither a product of queries and keys nor a value; `gain` is learnt (the paper's
    learnable residual fusion). The mask a is that of token attention in QKFormer (arXiv
    2403.16552), whose query and key are of one stream. Tokens are paired one to one, so both
    streams need as many. The paper's three stages of falling resolution are left out, and that the
    mask is over tokens alone is a reconstruction.

    Returns `gain` times spikes, of the target's shape. The map is the share of the source's spikes
    that pass: `spatial` [B, N], mean of a K over steps and channels.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = Projection(config.embed_dim, config.embed_dim)
        self.key = Projection(config.embed_dim, config.embed_dim)
        self.mask = LIF()
        self.out = Projection(config.embed_dim, config.embed_dim)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, target: Tensor, source: Tensor, maps: bool) -> tuple[Tensor, Maps]:
        passed = self.passed(self.query(target), self.key(source))
        residual = self.gain * self.out(passed)
        return residual, Maps(spatial=passed.mean((0, 2))) if maps else Maps()

    def passed(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the spikes of `key` that the mask of `query` lets through, all [T, B, C, N]."""
        query, key = (x.unflatten(2, (self.heads, -1)) for x in (query, key))
        mask = self.mask(query.sum(3, keepdim=True))  # [T, B, heads, 1, N]
        spikes: Tensor = (mask * key).flatten(2, 3)
        return spikes
