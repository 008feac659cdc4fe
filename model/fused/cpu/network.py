"""S-CMRL made fast on a CPU: the same weights and answers, with memory touched less.

- Batch norm and the neuron's 1/tau and threshold are folded into the weights before a layer.
- What one tensor is multiplied by is one matrix, and spikes overwrite the currents they come from.
- A neuron and the pooling after it are one pass (model/fused/cpu/numba_kernels.py).
- Where there are channels enough, a 3x3 convolution is a quarter of its multiplications
  (model/fused/cpu/winograd.py).
- Frames that are held for all steps (direct encoding) go through the first convolution once.
- No matrix of attention is built: q (k^T v) is the same integers.
- One sample is computed at a time, whatever its batch: its tensors stay in the cache, and its
  spikes are the same in any company.
- With `int8`, what spikes are multiplied by is rounded to a byte (model/fused/cpu/int8_kernels.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from math import gcd
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from model.fused import folding, readout
from model.fused.cpu import int8_kernels, numba_kernels, winograd
from model.fused.cpu.int8_kernels import Map
from model.fused.readout import Target
from model.network.attention import CCSSA, SCALE, Maps, SpikingAttention
from model.network.patch import PatchSplitting, Stage
from model.network.scmrl import MLP, SCMRL, CrossModalResidual, Output, firing_rate

#: The type that spikes are kept in between convolutions.
Spikes = type[np.float32] | type[np.uint8]
#: Channels of a block of heads that are multiplied together.
_BLOCK = 64
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def _conv(weight: Tensor, bias: Tensor) -> Map:
    """A 3x3 convolution [T, C, H, W], channels last, to currents."""
    weight = weight.contiguous(memory_format=torch.channels_last)
    return lambda x: conv2d(x, weight, bias, padding=1)


class FusedStage:
    """Convolution, batch norm, neuron and, where `pooled`, max-pool: [T or 1, H, W, C].

    It takes `frames`, or else spikes; with `int8` spikes are bytes, else float32.
    """

    def __init__(self, stage: Stage, *, frames: bool, pooled: bool, int8: bool) -> None:
        folded = folding.stage(stage)
        if frames or (not int8 and folded[0].shape[1] < winograd.LEAST_CHANNELS):
            self.current = _conv(*folded)
        else:
            self.current = (int8_kernels if int8 else winograd).conv3x3(*folded)
        self.pooled = pooled
        self.spikes: Spikes = np.uint8 if int8 else np.float32
        self.takes = torch.uint8 if int8 and not frames else torch.float32

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        """[T or 1, C, H, W], channels last, to [steps, C', H', W']."""
        current = self.current(x).permute(0, 2, 3, 1)  # [T or 1, H, W, C]
        if not self.pooled:  # a held current is pooled: it comes from frames
            return _fired(current).permute(0, 3, 1, 2).to(x.dtype)
        values = current.contiguous().numpy()
        _, rows, columns, channels = values.shape
        spikes = np.empty((steps, (rows + 1) // 2, (columns + 1) // 2, channels), self.spikes)
        numba_kernels.fire_and_pool(values, spikes)
        return torch.from_numpy(spikes).permute(0, 3, 1, 2)


class FusedPatches:
    """Spiking patch splitting of one sample: [T or 1, C, H, W] to tokens [T, N, D]."""

    def __init__(self, patch: PatchSplitting, int8: bool) -> None:
        self.stages = [
            FusedStage(stage, frames=index == 0, pooled=True, int8=int8)  # type: ignore[arg-type]
            for index, stage in enumerate(patch.stages)
        ]
        self.position = FusedStage(patch.position, frames=False, pooled=False, int8=int8)

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x, steps)
        tokens = x + self.position(x, steps)
        return tokens.permute(0, 2, 3, 1).flatten(1, 2).float()


class FusedLinear:
    """Linear maps of the same tokens side by side, and their neurons: [T, N, C] to spikes
    [T, N, C'], C' the sum of their channels.

    `maps` are weight and bias of each. With `int8`, x has to be small integers, as spikes are.
    """

    def __init__(self, maps: Sequence[tuple[Tensor, Tensor]], *, int8: bool) -> None:
        weight = torch.cat([weight.flatten(1) for weight, _ in maps])
        bias = torch.cat([bias for _, bias in maps])
        self._fires = (_rounded if int8 else _linear)(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self._fires(x)


def _linear(weight: Tensor, bias: Tensor) -> Map:
    """A linear map and its neurons; a bias costs less where these fire."""
    across, shift = weight.T.contiguous(), bias.numpy()

    def fires(x: Tensor) -> Tensor:
        current = torch.matmul(x, across)
        numba_kernels.fire_shifted(current.numpy(), shift)
        return current

    return fires


def _rounded(weight: Tensor, bias: Tensor) -> Map:
    """The same with int8 weights."""
    current = int8_kernels.linear(weight, bias)
    return lambda x: _fired(current(x))


def _fired(current: Tensor) -> Tensor:
    """The currents [T, ...], overwritten by their spikes."""
    current = current.contiguous()
    numba_kernels.fire(current.numpy())
    return current


class AttentionOverTokens:
    """Spikes of q (k^T v) at each step: the same integers as (q k^T) v, with less work.

    Heads are multiplied side by side, as many as fill a block that a matrix product is fast on;
    what meets another head is then put to 0.
    """

    def __init__(self, heads: int, channels: int, scale: float) -> None:
        width = channels // heads
        beside = gcd(heads, max(1, _BLOCK // width))
        self.size = width * beside
        self.own = torch.block_diag(*[torch.full((width, width), scale)] * beside)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        blocks = [
            torch.bmm(q_, torch.bmm(k_.transpose(1, 2), v_).mul_(self.own))
            for q_, k_, v_ in zip(*(x.split(self.size, 2) for x in (q, k, v)), strict=True)
        ]
        return _fired(blocks[0] if len(blocks) == 1 else torch.cat(blocks, 2))


class AttentionOverSteps:
    """Spikes of (q k^T) v over the steps at each token, [T, N, C]."""

    def __init__(self, heads: int, channels: int, scale: float) -> None:
        self.attend = numba_kernels.attend_over_steps(channels // heads)
        self.scale = np.float32(scale)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        spikes = torch.empty(q.shape)
        self.attend(q.numpy(), k.numpy(), v.numpy(), self.scale, spikes.numpy())
        return spikes


class _Attention:
    """What one attention does with its queries, keys and values [T, N, C]."""

    def __init__(self, attention: SpikingAttention, int8: bool) -> None:
        self.attention = attention
        over = AttentionOverTokens if attention.over == "spatial" else AttentionOverSteps
        lif = attention.lif
        scale = SCALE / (lif.tau * lif.v_threshold)
        self.attend = over(attention.heads, attention.query.conv.out_channels, scale)
        self.out = FusedLinear([folding.projection(attention.out)], int8=int8)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, maps: bool) -> tuple[Tensor, Maps]:
        spikes = self.out(self.attend(q, k, v))
        return spikes, readout.maps(self.attention, q, k) if maps else Maps()


class FusedAttentions:
    """Spiking attentions of a target to a source, one sample's tokens [T, N, C], side by side."""

    def __init__(self, attentions: Sequence[SpikingAttention], int8: bool) -> None:
        self.query = FusedLinear([folding.projection(a.query) for a in attentions], int8=int8)
        self.key_value = FusedLinear(
            [folding.projection(layer) for a in attentions for layer in (a.key, a.value)], int8=int8
        )
        self.each = [_Attention(attention, int8) for attention in attentions]

    def __call__(self, target: Tensor, source: Tensor, maps: bool) -> list[tuple[Tensor, Maps]]:
        """Spikes [T, N, C] of each attention, and what it looked at."""
        count = len(self.each)
        queries = self.query(target).chunk(count, 2)
        keys_values = self.key_value(source).chunk(2 * count, 2)
        return [
            attention(q, k, v, maps)
            for attention, q, k, v in zip(
                self.each, queries, keys_values[::2], keys_values[1::2], strict=True
            )
        ]


class FusedResidual:
    """What one source adds to one target: tokens [T, N, C] to the residual [T, N, C]."""

    def __init__(self, residual: CrossModalResidual, int8: bool) -> None:
        attention: CCSSA = residual.attention
        both = [a for a in (attention.spatial, attention.temporal) if a is not None]
        self.attentions = FusedAttentions(both, int8)
        align = folding.alignment(residual)
        # Of means, which are no integers.
        self.align = None if align is None else FusedLinear([align], int8=False)

    def __call__(self, target: Tensor, source: Tensor, maps: bool) -> tuple[Tensor, Maps]:
        gave, looked = readout.complement(self.attentions(target, source, maps))
        return (gave if self.align is None else self.align(gave)), looked


class FusedMLP:
    """Two projections and the residual, tokens [T, N, C]."""

    def __init__(self, mlp: MLP, int8: bool) -> None:
        self.expand = FusedLinear([folding.projection(mlp.expand)], int8=False)  # of x + alpha r
        self.contract = FusedLinear([folding.projection(mlp.contract)], int8=int8)

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.contract(self.expand(x))


class FusedNetwork:
    """A network whose weights are folded; calls may come from any number of threads.

    `threads` samples (or streams of one) are computed at a time, each by one thread. `int8`
    rounds what spikes are multiplied by; it needs a CPU that oneDNN has kernels for. `patch`,
    `residual` and `mlp` stand for the network's own of that name.
    """

    def __init__(self, network: SCMRL, threads: int, *, int8: bool = False) -> None:
        self._network = network
        self.patch = {n: FusedPatches(network.patch[n], int8) for n in network.config.streams}  # type: ignore[arg-type]
        self._blocks = [
            (FusedAttentions([block.attention], int8), FusedMLP(block.mlp, int8))  # type: ignore[arg-type,list-item]
            for block in network.blocks
        ]
        self.residual = {
            target: {source: FusedResidual(pair, int8) for source, pair in sources.items()}  # type: ignore[operator]
            for target, sources in network.residual.items()
        }
        self.mlp = {name: FusedMLP(mlp, int8) for name, mlp in network.mlp.items()}  # type: ignore[arg-type]
        self._threads = threads
        self._pool = ThreadPoolExecutor(
            threads, "scmrl-fused", initializer=torch.set_num_threads, initargs=(1,)
        )

    def __call__(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """As SCMRL.forward, but frames [T or 1, B, C, H, W] are held, not repeated."""
        names = [name for name in self.patch if name in inputs]
        batch = inputs[names[0]].shape[1]
        # A thread that computes a whole sample finds its tensors in its cache; the last ones are
        # shared out stream by stream, so that no thread waits for long until another is done.
        shared = range(max(0, batch - batch % self._threads - self._threads), batch)
        whole = self._map(
            lambda sample: self._sample(
                {name: inputs[name][:, sample] for name in names}, steps, attention
            ),
            range(shared.start),
        )
        jobs = [(sample, name) for sample in shared for name in names]
        split = self._map(lambda job: self.tokens(job[1], inputs[job[1]][:, job[0]], steps), jobs)
        given = dict(zip(jobs, split, strict=True))
        parts = self._map(
            lambda job: self._target(job[1], {n: given[job[0], n] for n in names}, attention),
            jobs,
        )
        targets = [*chain.from_iterable(whole), *parts]
        by_stream = {name: targets[index :: len(names)] for index, name in enumerate(names)}
        # By one of the threads that compute alone: the caller's would wake torch's own, which spin
        # on for milliseconds, on cores that the next batch needs.
        (output,) = self._map(lambda found: self._read_out(found, attention), [by_stream])
        return output

    def _read_out(self, by_stream: Mapping[str, Sequence[Target]], attention: bool) -> Output:
        """The batch's output, from what became of each stream of its samples."""
        return self._network.read_out(
            {name: torch.stack([t.features for t in found]) for name, found in by_stream.items()},
            {
                name: torch.stack([t.firing_rate for t in found])
                for name, found in by_stream.items()
            },
            _residuals(by_stream),
            _looked(by_stream) if attention else None,
        )

    def _map(self, work: Callable[[_In], _Out], jobs: Iterable[_In]) -> Iterator[_Out]:
        """Begin the work on each job, and give the results in their order."""

        def inferred(job: _In) -> _Out:
            with torch.inference_mode():  # holds for the thread that says so
                return work(job)

        return self._pool.map(inferred, jobs)

    def _sample(self, frames: Mapping[str, Tensor], steps: int, maps: bool) -> list[Target]:
        """What becomes of each stream of one sample."""
        given = {name: self.tokens(name, x, steps) for name, x in frames.items()}
        return [self._target(name, given, maps) for name in frames]

    def tokens(self, name: str, frames: Tensor, steps: int) -> Tensor:
        """One stream of one sample, [T or 1, C, H, W], as tokens [T, N, D]."""
        return self.patch[name](frames, steps)

    def _target(self, name: str, given: Mapping[str, Tensor], maps: bool) -> Target:
        """What becomes of one stream's tokens, given all of the sample's [T, N, D]."""
        x = given[name]
        rate = firing_rate(x, (0, 1, 2))
        if self._blocks:
            return self._self_attended(name, x, rate, maps)
        received = [
            (source, *residual(x, given[source], maps))
            for source, residual in self.residual.get(name, {}).items()
            if source in given
        ]
        return readout.target(x, rate, received, self._network.config.alpha, self.mlp[name])

    def _self_attended(self, name: str, x: Tensor, rate: Tensor, maps: bool) -> Target:
        looked = []
        for attention, mlp in self._blocks:
            ((spikes, seen),) = attention(x, x, maps)
            x = mlp(x + spikes)
            looked.append((name, seen))
        return readout.ended(x, rate, looked=looked)


def _residuals(by_stream: Mapping[str, Sequence[Target]]) -> dict[str, Tensor]:
    """Each stream's residuals [T, B, C]."""
    gathered = {}
    for name, targets in by_stream.items():
        found = [target.residual for target in targets if target.residual is not None]
        if found:
            gathered[name] = torch.stack(found, dim=1)
    return gathered


def _looked(by_stream: Mapping[str, Sequence[Target]]) -> dict[str, list[Maps]]:
    """The maps of a whole batch, by the stream that was looked at."""
    gathered: dict[str, list[Maps]] = {name: [] for name in by_stream}
    for targets in by_stream.values():
        for several in zip(*(target.looked for target in targets), strict=True):
            source, seen = several[0][0], [maps for _, maps in several]
            gathered[source].append(
                Maps(_stacked([m.spatial for m in seen]), _stacked([m.temporal for m in seen]))
            )
    return gathered


def _stacked(maps: Sequence[Tensor | None]) -> Tensor | None:
    found = [x for x in maps if x is not None]
    return torch.stack(found) if found else None
