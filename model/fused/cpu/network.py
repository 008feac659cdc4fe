"""The fused network on a CPU: one sample (or a stream of one) per thread.

One sample is computed at a time, whatever its batch: its tensors stay in the cache, and its spikes
are the same in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar, cast

import torch
from torch import Tensor

from model.fused.cpu.layers import ConvStage, CPULayers, Linear
from model.fused.folding import Folded
from model.fused.network import FusedNetwork, StreamFeatures
from model.network.attention import Maps
from model.network.scmrl import SCMRL
from model.output import Output
from model.thread_name import show_thread_name

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class CPUNetwork:
    """A network whose weights are folded; calls may come from any number of threads.

    `threads` samples, or streams of samples, are computed at a time, each by one thread. `int8`
    rounds the weights that spikes are multiplied by; it needs a CPU that oneDNN has kernels for.
    `fused` computes one sample.
    """

    def __init__(self, network: SCMRL, threads: int, *, int8: bool = False) -> None:
        self.fused: FusedNetwork[Tensor] = FusedNetwork(network, CPULayers(int8=int8))
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "scmrl-fused", initializer=_begin_thread)

    def __call__(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """As SCMRL.forward, but frames [T or 1, B, C, H, W] are held, not repeated."""
        names = [name for name in self.fused.patch if name in inputs]
        batch = inputs[names[0]].shape[1]
        # A thread that computes a whole sample finds its tensors in its cache. The last samples
        # are split by stream, so that all threads finish at about the same time.
        split = range(max(0, batch - batch % self._threads - self._threads), batch)
        whole = self._map(
            lambda sample: self._sample(
                {name: inputs[name][:, sample] for name in names}, steps, attention
            ),
            range(split.start),
        )
        jobs = [(sample, name) for sample in split for name in names]
        tokens = dict(
            zip(
                jobs,
                self._map(
                    lambda job: self.fused.patch[job[1]](inputs[job[1]][:, job[0]], steps), jobs
                ),
                strict=True,
            )
        )
        parts = self._map(
            lambda job: self.fused.stream(
                job[1], {name: tokens[job[0], name] for name in names}, steps, attention
            ),
            jobs,
        )
        features = [*chain.from_iterable(whole), *parts]  # sample by sample, stream by stream
        streams = {name: features[index :: len(names)] for index, name in enumerate(names)}
        # In a thread of the pool: in the caller's thread, torch would start its own threads, which
        # spin for milliseconds on cores that the next batch needs.
        (output,) = self._map(
            lambda batch: self.fused.read_out(
                {name: stack_samples(samples) for name, samples in batch.items()}, attention
            ),
            [streams],
        )
        return output

    def compile_kernels(self) -> None:
        """Compile the kernels between which layers choose by the number of spikes, so that no later
        input waits for a compiler. Raises OSError where one cannot be cached on disk."""
        for patch in self.fused.patch.values():
            for stage in (*patch.stages, patch.position):
                cast(ConvStage, stage).compile()
        linear = Linear([Folded(torch.zeros(1, 4, 1), torch.zeros(1), decay=0.5)], int8=False)
        for values in (torch.zeros(1, 1, 4), torch.ones(1, 1, 4)):
            linear(values, 1)

    def _sample(self, frames: Mapping[str, Tensor], steps: int, maps: bool) -> list[StreamFeatures]:
        """Return the features of each stream of one sample, [T or 1, C, H, W] by stream."""
        tokens = {name: self.fused.patch[name](x, steps) for name, x in frames.items()}
        return [self.fused.stream(name, tokens, steps, maps) for name in frames]

    def _map(self, work: Callable[[_In], _Out], jobs: Iterable[_In]) -> Iterator[_Out]:
        """Start the work on each job, and yield the results in their order."""

        def infer(job: _In) -> _Out:
            with torch.inference_mode():  # the mode is a thread's own
                return work(job)

        return self._pool.map(infer, jobs)


def _begin_thread() -> None:
    torch.set_num_threads(1)
    show_thread_name()


def stack_samples(samples: Sequence[StreamFeatures]) -> StreamFeatures:
    """Return the features of a stream of a batch, from those of its samples."""
    residuals = [s.residual for s in samples if s.residual is not None]
    tokens = [s.tokens for s in samples if s.tokens is not None]
    return StreamFeatures(
        torch.stack([s.features for s in samples]),
        torch.stack([s.firing_rate for s in samples]),
        torch.stack(residuals, dim=1) if residuals else None,  # [T, B, C]
        [_stack_maps(maps) for maps in zip(*(s.maps for s in samples), strict=True)],
        torch.stack(tokens) if tokens else None,
    )


def _stack_maps(samples: Sequence[tuple[str, Maps]]) -> tuple[str, Maps]:
    """Return the maps of one attention of a batch, from those of its samples."""
    source = samples[0][0]
    spatial = [maps.spatial for _, maps in samples if maps.spatial is not None]
    temporal = [maps.temporal for _, maps in samples if maps.temporal is not None]
    return source, Maps(
        torch.stack(spatial) if spatial else None, torch.stack(temporal) if temporal else None
    )
