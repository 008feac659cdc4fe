"""Blocks of shared memory between two ends, here in one process."""

from __future__ import annotations

import socket
from collections.abc import Iterator

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
