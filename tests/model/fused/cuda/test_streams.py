"""CUDA's streams around the work of the network's, and recordings, with stand-ins for both."""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import nullcontext
from typing import ClassVar, cast

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton, which there is for Linux on x86-64")

from model.config import Config, StreamConfig
from model.fused.cuda.network import CUDANetwork
from model.fused.cuda.tile_measurement import CUDATimer
from tests.model.networks import lively


class Stream:
    """A CUDA stream that keeps the names of those that it waited for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waited: list[str] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other.name)


@pytest.mark.parametrize("failing", [None, "a", "b"])
def test_each_stream_that_has_started_joins_also_after_an_error(
    failing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = StreamConfig(channels=1, size=(4, 4), splitting="shallow")
    config = Config(
        streams={"a": stream, "b": stream, "c": stream}, classes=3, embed_dim=8, heads=2
    )
    network = CUDANetwork(lively(config))
    current, streams = Stream("current"), [Stream(name) for name in "abc"]
    network._cuda_streams = cast("list[torch.cuda.Stream]", streams)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    done: list[str] = []

    def work(name: str) -> str:
        if name == failing:
            raise torch.OutOfMemoryError(name)
        done.append(name)
        return name

    if failing is None:
        assert network._run_parallel(work, "abc") == ["a", "b", "c"]
    else:
        with pytest.raises(torch.OutOfMemoryError, match=failing):
            network._run_parallel(work, "abc")
    started = [*done, failing] if failing else done
    assert current.waited == started, "a stream that was not part of a recording cannot join it"
    assert [each.name for each in streams if each.waited == ["current"]] == started


class Graph:
    """A CUDA graph as torch's: it can share the memory of another one that is alive only."""

    alive: ClassVar[Counter[int]] = Counter()

    def __init__(self) -> None:
        self._pool = 0

    def capture_begin(self, pool: int | None, capture_error_mode: str) -> None:
        assert pool is None or self.alive[pool]
        self._pool = pool or len(self.alive) + 1
        self.alive[self._pool] += 1

    def capture_end(self) -> None:
        pass

    def pool(self) -> int:
        return self._pool

    def __del__(self) -> None:
        self.alive[self._pool] -= 1


def test_measurements_share_the_memory_of_their_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Graph, "alive", Counter())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream("recordings"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("current"))
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    timer = CUDATimer(torch.device("cuda", 0))
    launched: list[Tensor] = []

    def run() -> Tensor:
        launched.append(torch.empty(0))
        return launched[-1]

    def fail() -> Tensor:
        raise RuntimeError("too few registers")

    for work in (fail, run, run, fail, run):
        if work is fail:
            with pytest.raises(RuntimeError, match="registers"):
                timer(work)
        else:
            timer(work)  # and drop what it returns
    assert launched
    del timer
    gc.collect()
    assert list(Graph.alive) == [1, 2], "the first one failed; the others share memory"
    assert not any(Graph.alive.values())
