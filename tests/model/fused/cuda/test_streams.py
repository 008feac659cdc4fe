"""The order of CUDA's streams around the work of the network's streams, with stand-ins for them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import cast

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which there is for Linux on x86-64")

from model.config import Config, StreamConfig
from model.fused.cuda.network import CUDANetwork
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
