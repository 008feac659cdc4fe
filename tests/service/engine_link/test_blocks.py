"""Blocks of shared memory between two ends, here in one process."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from service.engine_link import blocks
from service.engine_link.blocks import BlockPool, SharedBlocks


@pytest.fixture
def ends() -> Iterator[tuple[BlockPool, SharedBlocks]]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        shared = SharedBlocks(its)
        yield BlockPool(ours), shared
        shared.close()


def test_a_block_that_is_dropped_before_a_request_refers_to_it_is_not_kept(
    ends: tuple[BlockPool, SharedBlocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a clip whose client leaves after it was decoded, where enough blocks are kept."""
    pool, shared = ends
    monkeypatch.setattr(blocks, "_MAX_FREE", 0)
    for _ in range(5):
        pool.allocate((1000,))  # and nothing keeps it
    assert len(pool.dropped) == 5
    while pool.dropped:
        shared.drop(pool.dropped.popleft())
    reference, values = pool.refer(np.arange(3, dtype=np.float32))
    np.testing.assert_array_equal(shared.array(reference), values)
    assert list(shared._blocks) == [reference.block]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_blocks_need_no_open_files(ends: tuple[BlockPool, SharedBlocks]) -> None:
    """There may be a thousand of them for each worker, and few files may be open."""
    pool, shared = ends
    before = open_files()
    arrays = [pool.refer(np.full(3, number, np.float32)) for number in range(20)]
    for number, (reference, _) in enumerate(arrays):
        assert shared.array(reference).tolist() == [number] * 3
    assert open_files() == before


def mapped() -> int:
    return Path("/proc/self/maps").read_text().count("scmrl-block")


def test_memory_is_unmapped_at_both_ends_once_no_array_uses_it(
    ends: tuple[BlockPool, SharedBlocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, shared = ends
    monkeypatch.setattr(blocks, "_MAX_FREE", 0)
    before = mapped()
    reference, values = pool.refer(np.ones(3, np.float32))
    received = shared.array(reference)
    del values
    shared.drop(pool.dropped.popleft())
    assert received.tolist() == [1, 1, 1]
    assert mapped() == before + 1, "that of the receiver"
    del received
    assert mapped() == before


@contextmanager
def no_more_files() -> Iterator[None]:
    """No further file can be opened, or received."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(first := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (first, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_block_that_cannot_be_received_is_not_waited_for_again(
    ends: tuple[BlockPool, SharedBlocks], caplog: pytest.LogCaptureFixture
) -> None:
    pool, shared = ends
    reference, _kept = pool.refer(np.ones(3, np.float32))
    with no_more_files(), pytest.raises(MemoryError):
        shared.array(reference)
    assert "too many open files" in caplog.text
    with pytest.raises(MemoryError):
        shared.array(reference)
    other, values = pool.refer(np.arange(3, dtype=np.float32))
    np.testing.assert_array_equal(shared.array(other), values)
