"""A service is ready when it can answer a clip, and reports why where it never can."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.classification.upload_fields import InputFiles
from service.decoding import availability, fork_server, pool
from service.decoding.availability import DecodingUnavailable
from service.decoding.fork_server import DecodeLimits
from service.decoding.pool import DecoderPool
from service.decoding.stderr_tail import StderrTail, quote_lines
from service.settings import MIB
from tests.conftest import ROOT
from tests.service.decoding.test_pool import WANTED, fork_server_pid, good, run
from tests.service.process import Serve
from tests.service.running_server import wait_until

pytestmark = pytest.mark.slow

#: Error of a library that is not installed completely.
REASON = "libnothing.so.1: cannot open shared object file"


@contextmanager
def broken(folder: Path) -> Iterator[None]:
    """Break the import of soundfile in processes that have `folder` in PYTHONPATH."""
    module = folder / "soundfile.py"
    module.write_text(f"raise ImportError({REASON!r})")
    try:
        yield
    finally:
        module.unlink()


def test_a_service_without_decoders_is_never_ready_and_ends_with_their_stderr(
    serve: type[Serve], weights: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with broken(tmp_path):
        service = serve("--models", weights, "--port", port, PYTHONPATH=str(tmp_path))
        details: set[str] = set()
        while service.process.poll() is None:
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10)
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            assert answer.status_code == 503
            details.add(answer.json()["detail"])
        assert service.code() == 1
    assert not service.shown
    assert any("No decoding process can be started" in detail for detail in details)
    assert not any("libnothing" in detail for detail in details)
    last = service.logged.splitlines()[-1]
    assert last.startswith("scmrl serve: no decoding process can be started: ")
    assert last.endswith(f"exit code 1: ImportError: {REASON}")
    assert service.logged.count("Traceback") == 1, "its stderr, once"
    assert service.logged.count("is replaced") == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Failed starts are tried again soon; a folder in PYTHONPATH."""
    monkeypatch.setattr(fork_server, "_RETRY_S", 0.01)
    monkeypatch.setattr(fork_server, "_MAX_RETRY_S", 0.02)
    monkeypatch.setattr(pool, "_WATCH_S", 0.05)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    return tmp_path


@contextmanager
def watched(fatal: list[DecodingUnavailable]) -> Iterator[DecoderPool]:
    """Decoders that are replaced as a service's are."""
    limits = DecodeLimits(seconds=60, memory_bytes=1024 * MIB)
    decoders = DecoderPool(1, limits, fatal.append)
    decoders.start()
    watcher = threading.Thread(target=decoders.watch)
    watcher.start()
    try:
        yield decoders
    finally:
        decoders.stop()
        watcher.join()


def test_decoders_that_fail_later_are_restarted_until_they_work(
    impatient: Path, clip: bytes
) -> None:
    fatal: list[DecodingUnavailable] = []
    with watched(fatal) as decoders:
        assert decoders.run_self_test(WANTED)
        assert decoders.not_ready_reason(60) is None
        with broken(impatient):
            os.kill(fork_server_pid(decoders), signal.SIGKILL)
            wait_until(lambda: "Failed starts so far: 5" in (decoders.not_ready_reason(60) or ""))
            assert not fatal
        wait_until(lambda: decoders.not_ready_reason(60) is None)
        good(run(decoders, InputFiles(clip=clip))[0])
    assert not fatal


def test_decoding_fails_where_no_process_starts_for_long(
    impatient: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(availability, "_GIVE_UP_S", 1.0)
    fatal: list[DecodingUnavailable] = []
    with watched(fatal) as decoders:
        assert decoders.run_self_test(WANTED)
        with broken(impatient):
            os.kill(fork_server_pid(decoders), signal.SIGKILL)
            wait_until(lambda: bool(fatal))
            wait_until(lambda: decoders._fork_server.failed_starts.count > 4)  # type: ignore[union-attr]
            assert not decoders.run_self_test(WANTED)
    assert len(fatal) == 1
    assert str(fatal[0]).endswith(REASON)
    messages = [message for message in caplog.messages if "fork server" in message]
    assert ["signal 9" in messages[0], REASON in messages[1], len(messages)] == [True, True, 2]


def test_decoders_that_cannot_read_a_small_clip_are_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the sandbox refuses a system call that a library needs."""
    monkeypatch.setattr(pool.self_test, "CLIP", b"RIFF and nothing more")
    with (
        watched([]) as decoders,
        pytest.raises(DecodingUnavailable, match="a small clip cannot be"),
    ):
        decoders.run_self_test(WANTED)


def test_the_files_are_those_of_the_streams() -> None:
    kinds = {"visual": "frames", "audio": "audio_events"}
    assert set(pool.self_test.files(kinds) or ()) == {"clip", "audio_events"}
    assert set(pool.self_test.files({"seen": "events", "pen": "series"}) or ()) == {"events", "pen"}
    assert pool.self_test.files({"motion": "motion"}) is None


def test_what_waits_for_decoders_ends_when_they_are_stopped(impatient: Path) -> None:
    with broken(impatient), watched([]) as decoders:
        answers: list[bool] = []
        waiter = threading.Thread(target=lambda: answers.append(decoders.run_self_test(WANTED)))
        waiter.start()
        decoders.stop()
        waiter.join(60)
        assert answers == [False]


@pytest.mark.parametrize("whom", ["the fork server", "a worker"])
def test_what_a_process_writes_before_it_dies_is_logged_once(
    clip: bytes, caplog: pytest.LogCaptureFixture, whom: str
) -> None:
    with watched([]) as decoders:
        good(run(decoders, InputFiles(clip=clip))[0])
        pid = (
            fork_server_pid(decoders)
            if whom == "the fork server"
            else decoders._processes.idle[-1].pid
        )
        os.kill(pid, signal.SIGABRT)
        wait_until(lambda: decoders.restarts > 0)
        good(run(decoders, InputFiles(clip=clip))[0])
        wait_until(lambda: "Fatal Python error: Aborted" in caplog.text)
    assert caplog.text.count("Fatal Python error: Aborted") == 1


def test_what_is_written_about_files_is_not_logged(
    clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "scmrl")
    with watched([]) as decoders:
        run(
            decoders,
            InputFiles(clip=clip),
            InputFiles(clip=clip[:300]),
            InputFiles(clip=b"\x89PNG\r\n\x1a\n" * 9),
        )
        good(run(decoders, InputFiles(clip=clip))[0])
    assert [m for m in caplog.messages if " are confined by " not in m] == []


def test_stderr_tail_is_the_last_lines_and_move_no_cursor() -> None:
    words = StderrTail()
    for number in range(20_000):  # more than a pipe buffers: writers do not block
        os.write(words.writer, f"line {number} \x1b[2J\x07\n".encode())
    os.write(words.writer, b"\xff" + b"x" * 5000 + b"\nthe end")
    words.close_writer()
    lines = words.lines()
    assert (lines[-1], len(lines)) == ("the end", 80)
    assert all(line.isprintable() and len(line) <= 300 for line in lines)
    assert quote_lines(lines).endswith("\n  | the end")
    assert quote_lines([]) == ""
