"""The fused network on a CPU: one sample (or a stream of one) per thread.

One sample is computed at a time, whatever its batch: its tensors stay in the cache, and its spikes
are the same in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from model.fused.cpu.layers import ConvStage, CPULayers, Linear
from model.fused.folding import Folded
from model.fused.network import FusedNetwork, StreamFeatures
from model.network.attention import Maps
from model.network.scmrl import SCMRL
from model.output import Output
from model.thread_name import show_thread_name

_P = ParamSpec("_P")
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
        # The pool takes jobs in this order: a job waits only for those that others have begun.
        whole = [
            self._submit(self._sample, {n: inputs[n][:, sample] for n in names}, steps, attention)
            for sample in range(split.start)
        ]
        tokens = {
            (sample, name): self._submit(self.fused.patch[name], inputs[name][:, sample], steps)
            for sample in split
            for name in names
        }
        parts = [
            self._submit(
                self._stream, name, {n: tokens[sample, n] for n in names}, steps, attention
            )
            for sample in split
            for name in names
        ]
        # In a thread of the pool: in the caller's thread, torch would start its own threads, which
        # spin for milliseconds on cores that the next batch needs.
        return self._submit(self._read_out, names, whole, parts, attention).result()

    def _sample(self, frames: Mapping[str, Tensor], steps: int, maps: bool) -> list[StreamFeatures]:
        """Return the features of each stream of one sample, [T or 1, C, H, W] by stream."""
        tokens = {name: self.fused.patch[name](x, steps) for name, x in frames.items()}
        return [self.fused.stream(name, tokens, steps, maps) for name in frames]

    def _stream(
        self, name: str, tokens: Mapping[str, Future[Tensor]], steps: int, maps: bool
    ) -> StreamFeatures:
        """Return the features of a stream, from the tokens of all streams of its sample."""
        computed = {source: future.result() for source, future in tokens.items()}
        return self.fused.stream(name, computed, steps, maps)

    def _read_out(
        self,
        names: Sequence[str],
        whole: Sequence[Future[list[StreamFeatures]]],
        parts: Sequence[Future[StreamFeatures]],
        attention: bool,
    ) -> Output:
        """Return the output from the features of samples, and of streams of the last samples."""
        features = [*chain.from_iterable(job.result() for job in whole)]
        features += [job.result() for job in parts]  # sample by sample, stream by stream
        streams = {name: features[index :: len(names)] for index, name in enumerate(names)}
        return self.fused.read_out(
            {name: stack_samples(samples) for name, samples in streams.items()}, attention
        )

    def _submit(
        self, work: Callable[_P, _Out], *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_Out]:
        """Run `work` in a thread of the pool."""

        def infer() -> _Out:
            with torch.inference_mode():  # the mode is a thread's own
                return work(*args, **kwargs)

        return self._pool.submit(infer)

    def compile_kernels(self) -> None:
        """Compile the kernels between which layers choose by the number of spikes, so that no later
        input waits for a compiler. Raises OSError where one cannot be cached on disk."""
        for patch in self.fused.patch.values():
            for stage in (*patch.stages, patch.position):
                cast(ConvStage, stage).compile()
        linear = Linear([Folded(torch.zeros(1, 4, 1), torch.zeros(1), decay=0.5)], int8=False)
        for values in (torch.zeros(1, 1, 4), torch.ones(1, 1, 4)):
            linear(values, 1)


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
