"""An independent implementation of the network's equations: plain float64 loops, without model/.

Written from the description of the published network (see tests/data/golden/README.md), to be
read beside it and not to be fast. Weights come under the names of our state dict.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Reference:
    """One forward pass. `config` is Config.model_dump(); afterwards the fields hold its results.

    `spikes` by the name of our neuron, [T, B, ...]. `margin`: the smallest distance of a membrane
    potential from its threshold, exact ties (which are exact in float32 as well) left out.
    """

    weights: dict[str, Array]
    config: dict[str, Any]
    spikes: dict[str, Array] = field(default_factory=dict)
    residuals: dict[str, Array] = field(default_factory=dict)
    spatial: dict[str, Array] = field(default_factory=dict)
    temporal: dict[str, Array] = field(default_factory=dict)
    margin: float = np.inf

    def logits(self, inputs: dict[str, Array]) -> Array:
        """Class logits [B, classes] of `inputs` [T, B, C, H, W]."""
        tokens, grids = {}, {}
        for name in self.config["streams"]:
            if name in inputs:
                tokens[name], grids[name] = self._patches(f"patch.{name}", inputs[name])
        if len(self.config["streams"]) == 1:
            fused, attention_maps = self._single(tokens)
        else:
            fused, attention_maps = self._cross(tokens)
        for name, maps in attention_maps.items():
            self._keep_maps(name, maps, grids[name])
        pooled = [x.mean(axis=3).mean(axis=0) for x in fused.values()]  # [B, C] each
        if self.config["fusion"] == "add":
            features = sum(pooled[1:], pooled[0])
        else:
            features = np.concatenate(pooled, axis=1)
        logits: Array = features @ self.weights["head.weight"].T + self.weights["head.bias"]
        return logits

    def _neuron(self, name: str, current: Array) -> Array:
        """v = v + (x - v)/2; spike = (v >= threshold); v = v (1 - spike)."""
        threshold = float(self.weights[f"{name}.threshold"])
        v = np.zeros_like(current[0])
        spikes = np.zeros_like(current)
        for t in range(len(current)):
            v = v + (current[t] - v) / 2
            spikes[t] = v >= threshold
            distance = np.abs(v - threshold)
            self.margin = min(self.margin, float(distance[distance > 0].min(initial=np.inf)))
            v = v * (1 - spikes[t])
        self.spikes[name] = spikes
        return spikes

    def _norm(self, name: str, x: Array, axis: int) -> Array:
        """Batch norm with its recorded statistics over channel axis `axis`."""
        shape = [1] * x.ndim
        shape[axis] = -1
        mean, var, weight, bias = (
            self.weights[f"{name}.{entry}"].reshape(shape)
            for entry in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    # --- patch splitting -------------------------------------------------------------------

    def _patches(self, name: str, x: Array) -> tuple[Array, tuple[int, int]]:
        stages = 2 if self.config["streams"][name.split(".")[1]]["splitting"] == "shallow" else 4
        for index in range(stages):
            x = _max_pool(self._stage(f"{name}.stages.{index}", x))
        x = x + self._stage(f"{name}.position", x)
        rows, columns = x.shape[3:]
        tokens = np.zeros((*x.shape[:3], rows * columns))
        for row in range(rows):
            for column in range(columns):
                tokens[..., row * columns + column] = x[..., row, column]
        return tokens, (rows, columns)

    def _stage(self, name: str, x: Array) -> Array:
        current = _convolution(x, self.weights[f"{name}.conv.weight"])
        return self._neuron(f"{name}.lif", self._norm(f"{name}.norm", current, axis=2))

    # --- tokens [T, B, C, N] ---------------------------------------------------------------

    def _projection(self, name: str, x: Array) -> Array:
        weight = self.weights[f"{name}.conv.weight"][:, :, 0]
        current = np.einsum("oc,tbcn->tbon", weight, x)
        if f"{name}.conv.bias" in self.weights:
            current = current + self.weights[f"{name}.conv.bias"][:, None]
        return self._neuron(f"{name}.lif", self._norm(f"{name}.norm", current, axis=2))

    def _attention(self, name: str, target: Array, source: Array) -> tuple[Array, Array]:
        """Spikes [T, B, C, N] and the map over source tokens [B, N] or over steps [B, T, T]."""
        q = self._projection(f"{name}.query", target)
        k = self._projection(f"{name}.key", source)
        v = self._projection(f"{name}.value", source)
        attended, maps = (_over_steps if name.endswith("temporal") else _over_tokens)(
            q, k, v, self.config["heads"]
        )
        return self._projection(f"{name}.out", self._neuron(f"{name}.lif", attended)), maps

    def _residual(self, name: str, target: Array, source: Array) -> tuple[Array, dict[str, Array]]:
        outputs, maps = {}, {}
        for kind in self.config["attention"].split("-"):
            outputs[kind], maps[kind] = self._attention(f"{name}.attention.{kind}", target, source)
        if len(outputs) == 1:
            (x,) = outputs.values()
        else:
            by_step = outputs["spatial"].mean(axis=3, keepdims=True)  # [T, B, C, 1]
            by_token = outputs["temporal"].mean(axis=0, keepdims=True)  # [1, B, C, N]
            x = by_step * by_token
        if self.config["alignment"]:
            aligned = np.einsum("oc,tbcn->tbon", self.weights[f"{name}.align.weight"], x)
            aligned = aligned + self.weights[f"{name}.align.bias"][:, None]
            x = self._neuron(f"{name}.lif", aligned)
        return x, maps

    def _mlp(self, name: str, x: Array) -> Array:
        return x + self._projection(f"{name}.contract", self._projection(f"{name}.expand", x))

    def _cross(
        self, tokens: dict[str, Array]
    ) -> tuple[dict[str, Array], dict[str, list[dict[str, Array]]]]:
        fused: dict[str, Array] = {}
        source_maps: dict[str, list[dict[str, Array]]] = {name: [] for name in tokens}
        for target, x in tokens.items():
            total = np.zeros_like(x)
            for source in tokens:
                if source != target and self.config["attention"]:
                    name = f"residual.{target}.{source}"
                    residual, maps = self._residual(name, x, tokens[source])
                    total = total + residual
                    source_maps[source].append(maps)
                    self.residuals[target] = total.mean(axis=3)
            fused[target] = self._mlp(f"mlp.{target}", x + self.config["alpha"] * total)
        return fused, source_maps

    def _single(
        self, tokens: dict[str, Array]
    ) -> tuple[dict[str, Array], dict[str, list[dict[str, Array]]]]:
        ((name, x),) = tokens.items()
        maps = []
        for index in range(self.config["depth"]):
            spikes, spatial = self._attention(f"blocks.{index}.attention", x, x)
            x = self._mlp(f"blocks.{index}.mlp", x + spikes)
            maps.append({"spatial": spatial})
        return {name: x}, {name: maps}

    def _keep_maps(self, name: str, maps: list[dict[str, Array]], grid: tuple[int, int]) -> None:
        spatial = [x["spatial"] for x in maps if "spatial" in x]
        if spatial:
            mean = sum(spatial[1:], spatial[0]) / len(spatial)
            shares = [row / row.sum() if row.sum() else row for row in mean]
            self.spatial[name] = np.stack(shares).reshape(-1, *grid)
        temporal = [x["temporal"] for x in maps if "temporal" in x]
        if temporal:
            self.temporal[name] = sum(temporal[1:], temporal[0]) / len(temporal)


def _convolution(x: Array, weight: Array) -> Array:
    """3x3, zero padding of 1; [T, B, C, H, W]."""
    height, width = x.shape[3:]
    padded = np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((*x.shape[:2], weight.shape[0], height, width))
    for i in range(3):
        for j in range(3):
            part = padded[..., i : i + height, j : j + width]
            out += np.einsum("oc,tbchw->tbohw", weight[:, :, i, j], part)
    return out


def _max_pool(x: Array) -> Array:
    """3x3, stride 2, padding 1."""
    rows, columns = (x.shape[3] + 1) // 2, (x.shape[4] + 1) // 2
    padding = ((0, 0), (0, 0), (0, 0), (1, 2), (1, 2))
    padded = np.pad(x, padding, constant_values=-np.inf)
    out = np.zeros((*x.shape[:3], rows, columns))
    for row in range(rows):
        for column in range(columns):
            window = padded[..., 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            out[..., row, column] = window.max(axis=(3, 4))
    return out


def _over_tokens(q: Array, k: Array, v: Array, heads: int) -> tuple[Array, Array]:
    steps, batch, channels, tokens = q.shape
    d = channels // heads
    out = np.zeros_like(q)
    map_sum = np.zeros((batch, k.shape[3]))
    for t in range(steps):
        for b in range(batch):
            for h in range(heads):
                channels = slice(h * d, (h + 1) * d)
                weights = q[t, b, channels].T @ k[t, b, channels]  # [N_target, N_source]
                out[t, b, channels] = 0.25 * (weights @ v[t, b, channels].T).T
                map_sum[b] += 0.25 * weights.sum(axis=0)
    return out, map_sum / (steps * heads * tokens)


def _over_steps(q: Array, k: Array, v: Array, heads: int) -> tuple[Array, Array]:
    steps, batch, channels, tokens = q.shape
    d = channels // heads
    out = np.zeros_like(q)
    map_sum = np.zeros((batch, steps, steps))
    for n in range(tokens):
        for b in range(batch):
            attended = np.zeros((heads, steps, d))
            for h in range(heads):
                channels = slice(h * d, (h + 1) * d)
                weights = q[:, b, channels, n] @ k[:, b, channels, n].T  # [T, T]
                attended[h] = 0.25 * (weights @ v[:, b, channels, n])
                map_sum[b] += 0.25 * weights
            # As published: [heads, T, d] is read as [T, C], heads and steps mixed.
            flat = attended.ravel()
            for t in range(steps):
                for c in range(channels):
                    out[t, b, c, n] = flat[t * channels + c]
    return out, map_sum / (heads * tokens)
