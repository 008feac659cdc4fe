"""Engines on one CUDA device take turns; those on a CPU do not wait for each other."""

from __future__ import annotations

import threading

import pytest
import torch

from model.config import Config, StreamConfig
from model.engine import device_lock as locks
from model.engine.engine import Engine
from tests.model.networks import lively

CUDA = torch.device("cuda", 1)


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_locks", {})
    monkeypatch.setattr(locks, "_HANGS_S", 0.01)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


def test_engines_of_a_cuda_device_share_its_lock() -> None:
    lock = locks.device_lock(CUDA)
    assert locks.device_lock(torch.device("cuda")) is lock, "the current device is the same one"
    assert locks.device_lock(torch.device("cuda", 0)) is not lock


def test_engines_on_a_cpu_have_a_lock_each() -> None:
    stream = StreamConfig(channels=1, size=(4, 4), splitting="shallow")
    network = lively(Config(streams={"a": stream}, classes=3, embed_dim=8, heads=2))
    first, second = Engine(network, "cpu"), Engine(network, "cpu")
    assert first._lock is first._paths._lock
    assert first._lock is not second._lock
    with first._lock:
        assert first.renew()._lock is not first._lock, "it does not wait for a run that hangs"


def test_a_lock_that_a_hanging_thread_holds_is_replaced_once() -> None:
    lock = locks.device_lock(CUDA)
    with lock:
        locks.abandon_if_held(CUDA, lock)
        successor = locks.device_lock(CUDA)
        assert successor is not lock
        locks.abandon_if_held(CUDA, lock)
        assert locks.device_lock(CUDA) is successor, "another engine of the hanging device"


def test_a_lock_that_is_free_stays() -> None:
    lock = locks.device_lock(CUDA)
    locks.abandon_if_held(CUDA, lock)
    assert locks.device_lock(CUDA) is lock
    assert not lock.locked()
    locks.abandon_if_held(torch.device("cpu"), threading.Lock())
    assert locks.device_lock(CUDA) is lock
