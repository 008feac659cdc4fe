"""Recordings that fail, with stand-ins for CUDA's streams and graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch

from model.engine.cuda_graphs import _record


class Recordings:
    """The thread's current stream, and recordings as torch's, which end with `error` if any.

    One that cannot be ended leaves the thread on its stream.
    """

    def __init__(self, patch: pytest.MonkeyPatch, error: Exception | None) -> None:
        self.current = "the caller's"
        self._error = error
        patch.setattr(torch.cuda, "current_stream", lambda: self.current)
        patch.setattr(torch.cuda, "set_stream", lambda stream: setattr(self, "current", stream))
        patch.setattr(torch.cuda, "graph", self._graph)

    @contextmanager
    def _graph(
        self, graph: object, pool: object, stream: str, capture_error_mode: str
    ) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            if self._error is not None:
                raise self._error
            self.current = before


def record(error: Exception | None) -> str:
    """Record work that returns the stream that it runs on, or raises an error."""

    def work() -> str:
        if error is not None:
            raise error
        return cast("str", torch.cuda.current_stream())

    anything: Any = None
    return _record(anything, anything, cast("torch.cuda.Stream", "the recording's"), work)


UNJOINED = torch.AcceleratorError("operation failed due to a previous error during capture")


@pytest.mark.parametrize(
    ("raised", "at_end", "expected"),
    [
        (torch.OutOfMemoryError("in work"), UNJOINED, "in work"),
        (torch.OutOfMemoryError("in work"), None, "in work"),
        (ValueError("in work"), UNJOINED, "during capture"),
        (None, UNJOINED, "during capture"),
    ],
)
def test_a_failed_recording_says_why_and_leaves_the_callers_stream(
    raised: Exception | None,
    at_end: Exception | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recordings = Recordings(monkeypatch, at_end)
    with pytest.raises(Exception, match=expected):
        record(raised)
    assert recordings.current == "the caller's"


def test_work_is_recorded_on_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = Recordings(monkeypatch, None)
    assert record(None) == "the recording's"
    assert recordings.current == "the caller's"


def test_a_recording_shares_no_workspace_of_cublas_with_other_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []
    clear = lambda: events.append(f"clear on {recordings.current}")  # noqa: E731
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", clear, raising=False)
    recordings = Recordings(monkeypatch, None)
    anything: Any = None
    _record(anything, anything, anything, lambda: events.append("record"))
    assert events == ["clear on the caller's", "record", "clear on the caller's"]
