"""The calls that a confined process keeps, on machines that the tests do not run on."""

from __future__ import annotations

import sys

import pytest

from service.decoding import sandbox

#: Calls that 64-bit ARM never had, and the allowed ones that its C library takes instead.
REPLACED = {"poll": "ppoll", "select": "pselect6", "time": "clock_gettime"}


@pytest.mark.skipif(sys.platform != "linux", reason="libseccomp is Linux's")
def test_every_allowed_call_exists_on_64_bit_arm_or_is_replaced_there_by_an_allowed_one() -> None:
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError):
        pytest.skip("libseccomp is not installed")

    def exists(name: str) -> bool:
        return pyseccomp.resolve_syscall(pyseccomp.Arch.AARCH64, name) >= 0

    assert {name for name in sandbox._ALLOWED if not exists(name)} == REPLACED.keys()
    assert set(REPLACED.values()) <= set(sandbox._ALLOWED)
    assert all(map(exists, REPLACED.values()))
