"""The engine process, in the process of the test: workers that never begin, and an early end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest

from service.engine_link.board import Board
from service.errors import StartupError
from service.keys.key_file import Keys
from service.processes import engine_process
from service.processes.engine_process import EngineProcess
from service.server.listener import listen
from service.settings import Settings
from tests.conftest import ROOT


def make_process(weights: Path, failures: list[StartupError]) -> EngineProcess:
    """One with one worker, which ends at a failure."""

    def fail(error: StartupError) -> None:
        failures.append(error)
        process.stop(0)

    process = EngineProcess(
        Settings(models=weights, compile="off"),
        Keys(),
        listen("127.0.0.1", 0),
        1,
        Board(),
        hangups=lambda: 0,
        on_ready=lambda: None,
        on_failure=fail,
    )
    return process


@pytest.mark.slow
def test_a_worker_that_hangs_at_its_start_is_killed(
    weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be waited for at each load and unload."""
    monkeypatch.setattr(engine_process, "_MODULE", "tests.service.never_begins")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    for name, seconds in (("_START_S", 0.2), ("_WATCH_S", 0.05), ("_RETRY_S", 0.05)):
        monkeypatch.setattr(engine_process, name, seconds)
    failures: list[StartupError] = []
    with caplog.at_level(logging.ERROR):
        asyncio.run(make_process(weights, failures).run())
    assert "has not begun within 0.2 s: it is killed" in caplog.text
    assert "was ended by signal 9" in str(failures[0])


def test_a_worker_that_does_not_end_is_killed_after_the_grace_period(
    weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that is stopped (SIGSTOP)."""
    monkeypatch.setattr(engine_process, "_MODULE", "tests.service.never_begins")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setattr(engine_process, "_KILL_AFTER_S", 0.2)
    process = make_process(weights, [])

    async def run() -> None:
        running = asyncio.create_task(process.run())
        while not process._processes:
            await asyncio.sleep(0.02)
        process.stop(0)
        await asyncio.wait_for(running, 60)

    asyncio.run(run())
    assert "does not end: it is killed" in caplog.text
    assert process._processes[0].popen.returncode == -signal.SIGKILL


def test_a_stop_before_it_runs_ends_it(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "_MODULE", "tests.service.never_begins")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    process = make_process(weights, [])
    process.stop(1)
    asyncio.run(process.run())
    assert not process._processes
