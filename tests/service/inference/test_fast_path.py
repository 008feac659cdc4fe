"""The fast path on several devices, some of which are lost, and what a failed replacement keeps."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import suppress

import pytest

from service.inference.batching import Batcher
from tests.service.engines import NumberEngine, replace_lost_workers
from tests.service.inference.test_batching_losses import Poisoned, die, lost


class FusibleEngine(NumberEngine):
    """Has a fast path where `can_fuse`; `meanwhile` is called while it is replaced."""

    def __init__(self, can_fuse: bool = True, meanwhile: Callable[[], object] = int) -> None:
        super().__init__(die, 1)
        self.path = "plain"
        self._can_fuse, self._meanwhile = can_fuse, meanwhile

    def fuse(self, precision: str, steps: int) -> bool:
        self.path = f"{precision}, T = {steps}" if self._can_fuse else "plain"
        return self._can_fuse

    def renew(self) -> FusibleEngine:
        self._meanwhile()
        return FusibleEngine()


def refuse_to_renew(engine: FusibleEngine) -> FusibleEngine:
    raise Poisoned("still")


def paths(batcher: Batcher) -> list[str]:
    return [engine.path for engine in batcher.engines]


def test_every_device_that_can_has_the_fast_path() -> None:
    engines = [FusibleEngine(can_fuse=False), FusibleEngine()]
    batcher = Batcher(engines, max_wait_s=0, slots=10)  # type: ignore[arg-type]
    assert not batcher.fuse("float32", 4)
    assert paths(batcher) == ["plain", "float32, T = 4"]


class Float32Engine(FusibleEngine):
    """Has a fast path in float32 alone; `is_gone` once it was asked for another."""

    is_gone = False

    @property
    def is_lost(self) -> bool:
        return self.is_gone

    def fuse(self, precision: str, steps: int) -> bool:
        return precision == "float32" and super().fuse(precision, steps)


def test_a_device_without_the_precision_has_the_fast_path_in_float32() -> None:
    batcher = Batcher([Float32Engine(), FusibleEngine()], max_wait_s=0, slots=10)  # type: ignore[arg-type]
    assert batcher.fuse("float16", 4)
    assert paths(batcher) == ["float32, T = 4", "float16, T = 4"]


def test_a_device_that_is_lost_meanwhile_leaves_its_precision_to_its_successor() -> None:
    engine = Float32Engine()
    engine.is_gone = True
    batcher = Batcher([engine], max_wait_s=0, slots=10)  # type: ignore[arg-type]
    assert not batcher.fuse("float16", 4)
    assert paths(batcher) == ["plain"]


class UnfusibleEngine(FusibleEngine):
    """Fails when it is to prepare its fast path, as without memory to time it."""

    def fuse(self, precision: str, steps: int) -> bool:
        raise Poisoned("while it was timed")


def test_a_fast_path_that_fails_leaves_its_device_and_all_others_in_service() -> None:
    engines = [UnfusibleEngine(), FusibleEngine()]
    batcher = Batcher(engines, max_wait_s=0, slots=10)  # type: ignore[arg-type]
    assert not batcher.fuse("float32", 4)
    assert paths(batcher) == ["plain", "float32, T = 4"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("when", ["before", "meanwhile", "after"])
def test_the_successor_of_a_lost_device_has_the_fast_path_whenever_it_was_chosen(when: str) -> None:
    def fuse() -> None:
        assert batcher.fuse("float32", 4) is (when == "after")

    with lost(FusibleEngine(meanwhile=fuse if when == "meanwhile" else int)) as batcher:
        if when == "before":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(FusibleEngine, "renew", refuse_to_renew)
                with pytest.raises(Poisoned):
                    replace_lost_workers(batcher)
            fuse()
        replace_lost_workers(batcher)
        if when == "after":
            fuse()
        assert paths(batcher) == ["float32, T = 4"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_errors_of_replacements_keep_nothing_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network would stay on its device until the next full collection."""
    references: list[weakref.ref[object]] = []

    def fail(self: FusibleEngine) -> FusibleEngine:
        successor = FusibleEngine()
        references.append(weakref.ref(successor))
        raise Poisoned("still")

    monkeypatch.setattr(FusibleEngine, "renew", fail)
    with lost(FusibleEngine(), FusibleEngine()) as batcher:
        gc.disable()
        try:
            with suppress(Poisoned):
                replace_lost_workers(batcher)
            assert [each() for each in references] == [None, None]
        finally:
            gc.enable()
