"""The setting of Triton's interpreter for all tests of the CUDA network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest


@pytest.fixture(autouse=True, scope="module")
def unchecked_sums() -> Iterator[None]:
    """Without debugging, Triton's interpreter computes integer sums twice and compares nothing."""
    from triton.runtime.interpreter import interpreter_builder

    with pytest.MonkeyPatch.context() as patch:
        options = replace(interpreter_builder.options, sanitize_overflow=False)
        patch.setattr(interpreter_builder, "options", options)
        yield
