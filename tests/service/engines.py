"""Engines for tests of batching, which wait, fail and record their runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.arrays import Float32Array
from model.network import Output, StreamAttention
from service.inference.batch_queue import InferenceResult
from service.inference.batching import Batcher

STREAM = "audio"


@dataclass(frozen=True)
class Run:
    """One run: the numbers in its batch, and its options."""

    numbers: tuple[int, ...]
    steps: int | None
    explain: frozenset[str]


class NumberEngine:
    """Returns each sample's number as its logit and in its maps.

    A run waits until `go` is set, then does `before(numbers)`, which may raise.
    """

    def __init__(
        self,
        before: Callable[[tuple[int, ...]], None] = lambda numbers: None,
        max_batch: int = 4,
    ) -> None:
        self.max_batch = max_batch
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Semaphore(0)
        self.runs: list[Run] = []
        self._before = before

    @property
    def device(self) -> str:
        return "a test"

    @property
    def is_lost(self) -> bool:
        return False

    def set_max_batch(self, max_batch: int) -> None:
        self.max_batch = max_batch

    def allocate(self, shape: Sequence[int], dtype: str) -> NDArray[Any]:
        return np.empty(shape, dtype)

    def renew(self) -> NumberEngine:
        """Return the engine that replaces this one after its worker was lost."""
        self.successor = NumberEngine(max_batch=self.max_batch)
        return self.successor

    def run(
        self, inputs: Mapping[str, Tensor], steps: int | None = None, explain: Collection[str] = ()
    ) -> Output:
        x = inputs[STREAM]  # [T or 1, B, C, H, W]
        values = x[0, :, 0, 0, 0]
        numbers = tuple(int(value) for value in values)
        self.runs.append(Run(numbers, steps, frozenset(explain)))
        self.entered.release()
        assert self.go.wait(30)
        self._before(numbers)
        maps = StreamAttention(spatial=values.reshape(-1, 1, 1), temporal=None)
        return Output(
            logits=values.reshape(-1, 1),
            bias=torch.zeros(1),
            residuals={STREAM: values.reshape(1, -1, 1)},
            stream_logits={STREAM: values.reshape(-1, 1)},
            attention={STREAM: maps} if explain else None,
            token_logits={STREAM: values.reshape(-1, 1, 1, 1)} if explain else {},
        )


def inputs(number: int, size: int = 1) -> dict[str, Float32Array]:
    """Return inputs whose output is `number`, [1, 1, size, size]."""
    return {STREAM: np.full((1, 1, size, size), number, np.float32)}


@contextmanager
def started(engine: NumberEngine, **limits: Any) -> Iterator[Batcher]:
    """A batcher in front of the engine, with its worker running."""
    arguments = {"max_wait_s": 0.0, "slots": 1000} | limits
    batcher = Batcher([engine], **arguments)  # type: ignore[arg-type]
    batcher.start()
    try:
        yield batcher
    finally:
        engine.go.set()
        batcher.stop()


async def ask(
    batcher: Batcher, number: int, *, steps: int = 4, size: int = 1, explain: Collection[str] = ()
) -> InferenceResult:
    """Take a slot and run the inputs of `number`."""
    with batcher.slot() as slot:
        return await slot.run(inputs(number, size), steps, explain)


def answered(ran: InferenceResult) -> int:
    """Return the number of a result."""
    return int(ran.output.logits.item())


def replace_lost_workers(batcher: Batcher, hung_after_s: float = 60.0) -> None:
    """Replace lost workers, and wait for that for a second; raise what it has raised."""
    batcher.begin_replacements(hung_after_s)
    batcher.await_replacements(time.monotonic() + 1.0)


@contextmanager
def no_threads() -> Iterator[None]:
    """No thread can be started: its stack would be larger than the address space."""
    threading.stack_size(1 << 46)
    try:
        yield
    finally:
        threading.stack_size(0)


async def until_entered(engine: NumberEngine) -> None:
    """Wait until the engine has begun one more run."""
    assert await asyncio.to_thread(engine.entered.acquire, timeout=30)


async def behind(engine: NumberEngine, batcher: Batcher) -> asyncio.Task[InferenceResult]:
    """Block the engine in a run of number 0, so that further requests queue."""
    engine.go.clear()
    blocker = asyncio.create_task(ask(batcher, 0))
    await until_entered(engine)
    return blocker
