"""Operations of a network, counted from the spikes that its layers receive.

Neurons, batch norms (which fold into weights), pooling and memory are not counted, as is usual for
spiking networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from model.network.attention import CCSSA, Projection, SpikingAttention
from model.network.cross_attention import QueryKeyAttention, SpikingCrossAttention
from model.network.fusion import CurrentIntegration, TemporalAttention, WeightedAttention
from model.network.patch import PatchSplitting, Stage
from model.network.scmrl import SCMRL, CrossModalResidual
from model.output import LayerOperations


@torch.inference_mode()
def count_operations(
    network: SCMRL, inputs: Mapping[str, Tensor], steps: int
) -> dict[str, LayerOperations]:
    """Run the network on inputs [T or 1, B, C, H, W] by stream, and count, by name of the layer.

    A frame that is held for all steps passes the first convolution once. Sums of spikes are counted
    as their spikes. The network must be in eval mode, and not run elsewhere meanwhile.
    """
    counter = _Counter()
    hooks = [
        module.register_forward_hook(partial(hook, name))
        for name, module in network.named_modules()
        if (hook := counter.hook(module)) is not None
    ]
    try:
        network({name: x.expand(steps, *x.shape[1:]) for name, x in inputs.items()})
    finally:
        for hook in hooks:
            hook.remove()
    return counter.layers


class _Counter:
    """Forward hooks that count. `layers`: the operations so far, by name."""

    def __init__(self) -> None:
        self.layers: dict[str, LayerOperations] = {}
        self._tokens: dict[str, Tensor] = {}  # of each stream, after patch splitting
        self._residuals: dict[str, list[Tensor]] = {}  # by the target stream
        self._spikes: dict[str, Tensor] = {}  # of each projection

    def hook(self, module: nn.Module) -> Any:
        """Return the hook of a module (its name, itself, inputs, output), or None."""
        kinds = {
            Stage: self._stage,
            PatchSplitting: self._patch,
            Projection: self._projection,
            SpikingAttention: self._attention,
            CCSSA: self._product,
            CrossModalResidual: self._residual,
            SpikingCrossAttention: self._residual,
            QueryKeyAttention: self._query_key,
            WeightedAttention: self._weighted,
            CurrentIntegration: self._currents,
            TemporalAttention: self._over_time,
            SCMRL: self._head,
        }
        return kinds.get(type(module))

    def _stage(self, name: str, module: Stage, inputs: tuple[Tensor], spikes: Tensor) -> None:
        (x,) = inputs
        frames = x[:1] if x.stride(0) == 0 else x  # [T or 1, B, C, H, W]
        channels_in, (height, width) = module.conv.in_channels, x.shape[-2:]
        dense = height * width * channels_in * module.conv.out_channels * 9
        accumulates = None
        if _are_spikes(frames):
            sums = frames.sum(2).flatten(0, 1)[:, None]  # [T B, 1, H, W]
            taps = conv2d(sums, torch.ones(1, 1, 3, 3, device=x.device), padding=1)
            by_clip = taps.unflatten(0, frames.shape[:2]).sum((0, 2, 3, 4), dtype=torch.float64)
            accumulates = by_clip * module.conv.out_channels
        self._add(name, x.shape[1], accumulates, len(frames), dense, spikes)

    def _patch(self, name: str, _: nn.Module, inputs: tuple[Tensor], tokens: Tensor) -> None:
        self._tokens[name.removeprefix("patch.")] = tokens

    def _projection(
        self, name: str, module: Projection, inputs: tuple[Tensor], spikes: Tensor
    ) -> None:
        (x,) = inputs  # [T, B, C, N]
        self._spikes[name] = spikes
        channels_out = module.conv.out_channels
        dense = x.shape[2] * x.shape[3] * channels_out
        accumulates = None
        parts = self._mlp_parts(name) or [x]
        if all(_are_spikes(part) for part in parts):
            sums = [part.sum((0, 2, 3), dtype=torch.float64) for part in parts]
            accumulates = torch.stack(sums).sum(0) * channels_out
        self._add(name, x.shape[1], accumulates, len(x), dense, spikes)

    def _mlp_parts(self, name: str) -> list[Tensor] | None:
        """Return the spikes that an MLP's input x + alpha r is made of: each adds a weight, those
        of the residual the weight times alpha, which is a weight of its own."""
        parts = name.split(".")
        if parts[0] != "mlp" or parts[-1] != "expand":
            return None
        return [self._tokens[parts[1]], *self._residuals.get(parts[1], [])]

    def _attention(
        self, name: str, module: SpikingAttention, inputs: tuple[Any, ...], _: Any
    ) -> None:
        q, k, v = (self._spikes.pop(f"{name}.{part}") for part in ("query", "key", "value"))
        steps, batch, channels, tokens = q.shape
        split = [x.unflatten(2, (module.heads, -1)) for x in (q, k, v)]  # [T, B, heads, d, N]
        order = (1, 0, 2, 4, 3) if module.over == "spatial" else (1, 4, 2, 0, 3)
        q, k, v = (x.permute(*order) for x in split)  # [B, T, heads, N, d] or [B, N, heads, T, d]
        weights = q @ k.transpose(-2, -1)
        spikes_of_values = (weights != 0).to(v.dtype) @ v
        each = (1, 2, 3, 4)
        accumulates = weights.sum(each, dtype=torch.float64) + spikes_of_values.sum(
            each, dtype=torch.float64
        )
        sources = k.shape[-2] if module.over == "spatial" else 1
        self._add(name, batch, accumulates, steps, 2 * tokens * sources * channels, None)

    def _product(self, name: str, module: CCSSA, inputs: tuple[Any, ...], output: Any) -> None:
        if module.spatial is None or module.temporal is None:
            return
        complement, _ = output  # [T, B, C, N]
        steps, batch, channels, tokens = complement.shape
        self._add(f"{name}.product", batch, None, steps, channels * tokens, None)

    def _residual(
        self,
        name: str,
        module: CrossModalResidual | SpikingCrossAttention | QueryKeyAttention,
        inputs: tuple[Any, ...],
        output: Any,
    ) -> None:
        residual, _ = output  # [T, B, C, N]
        self._residuals.setdefault(name.split(".")[1], []).append(residual)
        if isinstance(module, CrossModalResidual) and module.align is not None:
            steps, batch, channels, tokens = residual.shape
            dense = channels * channels * tokens
            self._add(f"{name}.align", batch, None, steps, dense, residual)

    def _query_key(
        self, name: str, module: QueryKeyAttention, inputs: tuple[Any, ...], output: Any
    ) -> None:
        """Count the sums of queries that decide the mask: that a spike passes is no addition."""
        query, spikes = (self._spikes[f"{name}.{part}"] for part in ("query", "out"))
        accumulates = query.sum((0, 2, 3), dtype=torch.float64)
        dense = query.shape[2] * query.shape[3]
        self._add(name, query.shape[1], accumulates, len(query), dense, None)
        # The gain is a part of the weights that the residual's spikes meet.
        self._residuals.setdefault(name.split(".")[1], []).append(spikes)

    def _weighted(
        self, name: str, module: WeightedAttention, inputs: tuple[Any, ...], output: Any
    ) -> None:
        (features,) = inputs
        _, batch, channels = next(iter(features.values())).shape
        self._add(name, batch, None, 1, 2 * channels * len(features), None)

    def _currents(
        self, name: str, module: CurrentIntegration, inputs: tuple[Any, ...], output: Any
    ) -> None:
        (features,) = inputs
        steps, batch, channels = next(iter(features.values())).shape
        self._add(name, batch, None, steps, channels * channels * len(features), None)

    def _over_time(
        self, name: str, module: TemporalAttention, inputs: tuple[Any, ...], output: Any
    ) -> None:
        (features,) = inputs
        steps, batch, channels = next(iter(features.values())).shape
        classes = module.query.out_features
        dense = (2 * classes + len(features)) * channels + steps * classes
        self._add(name, batch, None, steps, dense, None)

    def _head(self, name: str, module: SCMRL, inputs: tuple[Any, ...], output: Any) -> None:
        batch, classes = output.logits.shape
        dense = module.config.embed_dim * classes * len(output.stream_logits)
        self._add("head", batch, None, 1, dense, None)

    def _add(
        self, name: str, batch: int, accumulates: Tensor | None, runs: int, dense: int,
        spikes: Tensor | None,
    ) -> None:  # fmt: skip
        """Add a layer; without `accumulates` its input is real, and it multiplies in each run."""
        zeros = torch.zeros(batch, dtype=torch.float64)
        rate = None
        if spikes is not None:
            others = [axis for axis in range(spikes.dim()) if axis != 1]
            rate = spikes.mean(others).cpu()
        self.layers[name] = LayerOperations(
            accumulates=zeros if accumulates is None else accumulates.cpu(),
            multiply_accumulates=zeros + runs * dense if accumulates is None else zeros,
            dense=dense,
            firing_rate=rate,
        )


def _are_spikes(x: Tensor) -> bool:
    """Return whether all values are sums of spikes: whole numbers from 0 on."""
    return bool(((x >= 0) & (x == x.round())).all())
