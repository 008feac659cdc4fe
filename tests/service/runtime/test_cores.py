"""Thread counts come from the container's quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.runtime import cores

MACHINE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [
        ("max 100000", MACHINE),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("150000 100000", min(2, MACHINE)),
        ("6400000 100000", MACHINE),
        ("nonsense", MACHINE),
    ],
)
def test_version_2_quota(tmp_path: Path, cpu_max: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max)
    assert cores.available(tmp_path / "cpu.max", tmp_path / "none") == expected


def test_version_1_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.available(tmp_path / "none", tmp_path) == 1


def test_no_quota_at_all(tmp_path: Path) -> None:
    assert cores.available(tmp_path / "none", tmp_path / "none") == MACHINE
