"""Freed memory returns to the kernel."""

from __future__ import annotations

from model import allocator
from tests.resident import MIB, UnreturnedMemory, needs_glibc, resident


@needs_glibc
def test_trim_returns_memory_below_a_block_in_use() -> None:
    unreturned = UnreturnedMemory(100 * MIB)
    before = resident()
    assert allocator.trim()
    assert resident() < before - 80 * MIB
    unreturned.release()
