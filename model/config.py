"""The network's configuration, as in a checkpoint's card."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.preprocess.stream_spec import Size

Splitting = Literal["deep", "shallow"]
Attention = Literal["spatial", "temporal", "spatial-temporal"]
#: How the streams are fused: `add` and `concat` with the cross-modal residuals of S-CMRL, or as
#: another paper does (model/network/fusion.py, model/network/cross_attention.py).
Fusion = Literal["add", "concat", "weighted", "sca", "cmci", "taaf", "cmqka"]
#: Those of S-CMRL, to which `attention`, `alignment` and `alpha` apply.
SCMRL_FUSIONS: tuple[Fusion, ...] = ("add", "concat")
#: Precision of the weights that are multiplied by spikes.
Precision = Literal["float32", "int8", "float16"]
#: How an engine computes the network: layer by layer as published; fused on a CPU, in float32 or
#: with int8 weights; or on CUDA as recorded graphs, of the plain network or of the fused one, in
#: float32 or with float16 weights.
EnginePath = Literal["plain", "fused", "fused-int8", "graphs", "fused-graphs", "fused-half-graphs"]

#: Most streams that `cmci` fuses: each stream's term is a mean over all subsets of the others.
MAX_CMCI_STREAMS = 6
#: Largest number of time steps T of a call: CUDA packs the spikes of a neuron into 64 bits.
MAX_STEPS = 64
#: Largest seed of torch's generators.
MAX_SEED = 2**63 - 1

#: Number of stages of patch splitting. A stage is conv, batch norm, neuron and 2 x 2 max-pool.
STAGES: dict[Splitting, int] = {"deep": 4, "shallow": 2}

_NAME = re.compile(r"[a-z][a-z0-9_]*")
#: Names that no stream may have: attributes of torch's ModuleDict, which keeps a stream's modules
#: by its name. A list, so that a card is read without torch; a test compares it with ModuleDict.
_RESERVED_NAMES = frozenset({
    "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "clear",
    "compile", "cpu", "cuda", "double", "dump_patches", "eval", "extra_repr", "float",
    "forward", "get_buffer", "get_extra_state", "get_parameter", "get_submodule", "half",
    "ipu", "items", "keys", "load_state_dict", "modules", "mtia", "named_buffers",
    "named_children", "named_modules", "named_parameters", "parameters", "pop",
    "register_backward_hook", "register_buffer", "register_forward_hook",
    "register_forward_pre_hook", "register_full_backward_hook",
    "register_full_backward_pre_hook", "register_load_state_dict_post_hook",
    "register_load_state_dict_pre_hook", "register_module", "register_parameter",
    "register_state_dict_post_hook", "register_state_dict_pre_hook", "requires_grad_",
    "set_extra_state", "set_submodule", "share_memory", "state_dict", "to", "to_empty",
    "train", "training", "type", "update", "values", "xpu", "zero_grad",
})  # fmt: skip


class StreamConfig(BaseModel):
    """One input stream (`audio`, `visual`, …) of tensors [T, B, C, H, W].

    - `channels`: C.
    - `size`: (H, W).
    - `splitting`: patch splitting; `deep` makes one token of 16 x 16 pixels, `shallow` of 4 x 4.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(ge=1, le=64)
    size: Size
    splitting: Splitting = "deep"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the token grid. Each max-pool halves a side, rounding up."""
        height, width = self.size
        for _ in range(STAGES[self.splitting]):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width

    @property
    def tokens(self) -> int:
        """Number of tokens N."""
        rows, columns = self.grid
        return rows * columns


class Config(BaseModel):
    """Configuration of S-CMRL (arXiv 2502.12488), for any number of named streams.

    With one stream, this is the published unimodal network: self-attention in `depth` blocks.
    Two or more streams are fused:

    - `streams`: by name. Their order is the order of concatenation.
    - `classes`: number of labels. `embed_dim`: channels D of the tokens. `heads`: attention heads.
      `mlp_ratio`: hidden channels of the MLP over D.
    - `attention`: cross-modal attention; None for no cross-modal residual.
    - `alignment`: apply the semantic-alignment transform.
    - `alpha`: weight of the residual (the paper's alpha).
    - `fusion`: add or concatenate the streams' pooled features before the head. Any other takes the
      place of the cross-modal residuals, so `attention` must be None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    streams: dict[str, StreamConfig]
    classes: int = Field(ge=2, le=100_000)
    embed_dim: int = Field(default=256, ge=8, le=8192)
    heads: int = Field(default=16, ge=1, le=8192)
    mlp_ratio: float = Field(default=4.0, gt=0, le=64, allow_inf_nan=False)
    attention: Attention | None = "spatial-temporal"
    alignment: bool = True
    alpha: float = Field(default=1.5, ge=-1000, le=1000, allow_inf_nan=False)
    fusion: Fusion = "add"
    depth: int = Field(default=1, ge=1, le=64)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.streams:
            raise ValueError("streams: at least one is required")
        for name in self.streams:
            if not _NAME.fullmatch(name) or name in _RESERVED_NAMES:
                raise ValueError(f"streams: {name!r} cannot name a stream")
        if self.embed_dim % self.heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of heads {self.heads}")
        if self.embed_dim % 8:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of 8")
        if int(self.embed_dim * self.mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} gives the MLP no hidden channel")
        self._check_fusion()
        return self

    def _check_fusion(self) -> None:
        if self.fusion not in SCMRL_FUSIONS and self.attention is not None:
            raise ValueError(
                f"fusion {self.fusion} takes the place of cross-modal residuals: attention must be "
                f"null, but is {self.attention}"
            )
        if self.fusion == "cmci" and len(self.streams) > MAX_CMCI_STREAMS:
            count = len(self.streams)
            raise ValueError(f"fusion cmci: {count} streams; can be at most {MAX_CMCI_STREAMS}")
        counts = {name: stream.tokens for name, stream in self.streams.items()}
        kind = self.fusion if self.fusion == "cmqka" else self.attention
        pairs_tokens = kind in ("temporal", "spatial-temporal", "cmqka")
        if pairs_tokens and len(self.streams) > 1 and len(set(counts.values())) > 1:
            raise ValueError(
                f"{kind} attention pairs tokens one to one, so every stream needs "
                f"the same number of tokens; these have {counts}"
            )

    @property
    def fuses_as_scmrl(self) -> bool:
        """Whether the network is S-CMRL, with any of its parts: one stream, or two and more with
        cross-modal residuals or none, and a sum or a concatenation."""
        return len(self.streams) == 1 or self.fusion in SCMRL_FUSIONS
