"""Decoding processes: their results, their limits, and the requests of those that die."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import resource
import signal
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.media.reader import Limits
from service.classification.upload_fields import InputFiles
from service.decoding import fork_server, fork_server_process, process_set
from service.decoding.files import decode
from service.decoding.fork_server import DecodeLimits
from service.decoding.job import DecodeRequest, DecodeResult
from service.decoding.live_wire import LiveRequest
from service.decoding.pool import DecoderPool
from service.decoding.proc_status import _MAX_ASLEEP_CHECKS, ProcStatus, Unresponsive
from service.decoding.process import Process
from service.decoding.process_set import ProcessSet
from service.decoding.wire import Allocate
from service.errors import Error, Problem
from service.settings import MIB
from tests.conftest import ROOT
from tests.model import costly_pictures, media_files
from tests.service import checkpoints
from tests.service.checkpoints import STEPS
from tests.service.media_files import png, tone, wav
from tests.service.running_server import wait_until

pytestmark = pytest.mark.slow

CARD = checkpoints.card()
WANTED = DecodeRequest.from_card(CARD, STEPS)
GENEROUS = DecodeLimits(seconds=60, memory_bytes=1 << 30)
#: Within these limits this file takes a process about 20 s.
SLOW = InputFiles(clip=costly_pictures.gif(1500, 1500, 20_000))
PATIENT = DecodeRequest.from_card(
    CARD,
    STEPS,
    replace(
        Limits(),
        max_composed_pixels=1 << 40,
        max_decoded_pixels=1 << 50,
        max_demux_cpu_s=60.0,
        max_duration_s=3600.0,
    ),
)


@contextmanager
def started(
    limits: DecodeLimits = GENEROUS, workers: int = 1, allocate: Allocate = np.empty
) -> Iterator[DecoderPool]:
    decoders = DecoderPool(workers, limits, allocate=allocate)
    decoders.start()
    try:
        yield decoders
    finally:
        decoders.stop()


def run(
    decoders: DecoderPool, *jobs: InputFiles, request: DecodeRequest = WANTED
) -> list[DecodeResult | BaseException]:
    """Submit all jobs at once; return the result or the exception of each."""

    async def scenario() -> list[DecodeResult | BaseException]:
        tasks = (decoders.decode(job, request) for job in jobs)
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(scenario())


def good(result: DecodeResult | BaseException) -> DecodeResult:
    assert isinstance(result, DecodeResult), result
    return result


def problem(result: DecodeResult | BaseException) -> Problem:
    assert isinstance(result, Problem), result
    return result


def idle_pid(decoders: DecoderPool) -> int:
    return decoders._processes.idle[-1].pid


def busy_pid(decoders: DecoderPool) -> int | None:
    """A process that reads a file now."""
    return next((process.pid for process in decoders._processes.busy.copy()), None)


def cpu_ticks(pid: int | None) -> int:
    """CPU time that a process has used, in clock ticks; 0 of none."""
    if pid is None:
        return 0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def page_faults(pid: int) -> int:
    """Page faults of a process, without reads from disk."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def fork_server_pid(decoders: DecoderPool) -> int:
    """The process that starts the others."""
    pid = decoders._fork_server.pid
    assert pid is not None
    return pid


@pytest.fixture(scope="module")
def shared_decoders() -> Iterator[DecoderPool]:
    with started(workers=2) as decoders:
        yield decoders


@pytest.fixture(scope="module")
def media_examples() -> dict[str, bytes]:
    """A file for each library and each family of codecs."""
    sound = media_files.tone(0.5, 48_000)
    clips = {
        codec: media_files.clip(container, codec, sound=sound, sound_codec=sound_codec)
        for container, codec, sound_codec in (
            ("mp4", "libx264", "aac"),
            ("mp4", "libx265", "ac3"),
            ("webm", "libvpx", "libopus"),
            ("webm", "libvpx-vp9", "libopus"),
            ("matroska", "libsvtav1", "pcm_s16le"),
            ("avi", "mpeg4", "libmp3lame"),
            ("flv", "flv", "aac"),
        )
    }
    sounds = {
        kind: media_files.sound_file(sound, 48_000, kind) for kind in ("WAV", "FLAC", "OGG", "MP3")
    }
    picture = media_files.quadrants(80, 60)
    pictures = {
        end: cv2.imencode(end, picture)[1].tobytes()
        for end in (".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif", ".avif")
    }
    return clips | sounds | pictures


def children_of(pid: int) -> list[int]:
    """Living processes whose parent this is."""
    children = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                children.append(int(entry.parent.name))
    return children


def test_the_result_equals_decoding_in_this_process(clip: bytes) -> None:
    files = InputFiles(clip=clip)
    expected = decode(files, WANTED)
    with started() as decoders:
        actual = good(run(decoders, files)[0])
    assert actual.streams == expected.streams
    assert set(actual.prepared) == set(expected.prepared)
    for name, prepared in expected.prepared.items():
        other = actual.prepared[name]
        assert (other.rows, other.columns) == (prepared.rows, prepared.columns)
        parts = [
            *(
                (getattr(prepared, n), getattr(other, n))
                for n in ("tensor", "row_edges", "column_edges")
            ),
            (prepared.canvas(), other.canvas()),
        ]
        for expected_array, actual_array in parts:
            assert actual_array.dtype == expected_array.dtype
            # A process of one thread may add in another order than one of several: BLAS's matter.
            np.testing.assert_allclose(actual_array, expected_array, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9")])
def test_several_threads_decode_the_same_frames(kind: str, codec: str) -> None:
    frames = [np.roll(media_files.quadrants(), n, axis=1) for n in range(40)]
    sound = media_files.tone(1, 48_000)
    clip = media_files.clip(kind, codec, frames, group=10, sound=sound, sound_codec="libopus")
    files = InputFiles(clip=clip)
    with started(workers=4) as decoders:
        actual = good(run(decoders, files)[0]).prepared["visual"]
    expected = decode(files, WANTED).prepared["visual"]
    np.testing.assert_array_equal(actual.canvas(), expected.canvas())
    np.testing.assert_allclose(actual.tensor, expected.tensor, rtol=0, atol=1e-6)


def test_the_canvas_is_omitted_where_no_map_is_drawn(clip: bytes) -> None:
    with started() as decoders:
        request = DecodeRequest.from_card(CARD, STEPS, canvas=False)
        result = good(run(decoders, InputFiles(clip=clip), request=request)[0])
    assert all(stream.canvas().size == 0 for stream in result.prepared.values())


def test_every_kind_of_upload_is_read_by_a_confined_process(
    clip: bytes, media_examples: dict[str, bytes]
) -> None:
    """A confined process can load no library: each codec is the first one of its process."""
    picture = png(media_files.quadrants(40, 30))
    jobs = {name: InputFiles(clip=data) for name, data in media_examples.items()}
    jobs["files"] = InputFiles(video=clip, audio=wav(tone()))
    jobs["frames"] = InputFiles(frames=(picture,) * 5, audio=clip)
    with started() as decoders:
        for name, job in jobs.items():
            assert isinstance(run(decoders, job)[0], DecodeResult), name
            os.kill(idle_pid(decoders), signal.SIGKILL)


def test_problems_of_files_are_the_same_as_in_this_process() -> None:
    with started() as decoders:
        refused, large = run(
            decoders, InputFiles(clip=b"not a clip" * 9), InputFiles(audio=wav(tone()))
        )
        assert problem(refused).error is Error.UNKNOWN_FORMAT
        assert problem(refused).field == "clip"
        short = DecodeRequest.from_card(CARD, STEPS, replace(Limits(), max_duration_s=0.01))
        (long,) = run(decoders, InputFiles(audio=wav(tone())), request=short)
        assert problem(long).error is Error.TOO_LARGE
        assert good(large).streams["audio"].used
        assert decoders.restarts == 0


def test_a_process_killed_between_two_jobs_costs_no_job(clip: bytes) -> None:
    with started() as decoders:
        good(run(decoders, InputFiles(clip=clip))[0])
        os.kill(idle_pid(decoders), signal.SIGKILL)
        good(run(decoders, InputFiles(clip=clip))[0])
        assert decoders.restarts == 1


def test_a_killed_fork_server_is_replaced(clip: bytes) -> None:
    with started() as decoders:
        good(run(decoders, InputFiles(clip=clip))[0])
        os.kill(fork_server_pid(decoders), signal.SIGKILL)
        good(run(decoders, InputFiles(clip=clip))[0])


def test_keys_are_not_in_the_environment_of_the_fork_server(
    clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker who controls a decoding process could return its memory in a response."""
    monkeypatch.setenv("SCMRL_API_KEYS", "anna:q7Zt4mXv9RkB2wLc8NpY")
    monkeypatch.setenv("SCMRL_ADMIN_KEY", "q7Zt4mXv9RkB2wLc8NpY")
    with started() as decoders:
        good(run(decoders, InputFiles(clip=clip))[0])
        try:
            environment = Path(f"/proc/{fork_server_pid(decoders)}/environ").read_bytes()
        except PermissionError:
            pytest.skip("only root may read the environment of a process that is not dumpable")
        assert b"OMP_NUM_THREADS=1" in environment
        assert b"q7Zt4mXv9RkB2wLc8NpY" not in environment


def test_a_file_that_takes_too_long_is_blamed_and_costs_no_other(clip: bytes) -> None:
    with started(DecodeLimits(seconds=1, memory_bytes=1 << 30)) as decoders:
        slow, after = run(decoders, SLOW, InputFiles(clip=clip), request=PATIENT)
        assert problem(slow).error is Error.DECODE_TIMEOUT
        assert problem(slow).field == "clip"
        good(after)
        assert decoders.restarts == 1


def test_stopped_processes_cost_a_retry_and_no_file(clip: bytes) -> None:
    with started(workers=2) as decoders:
        while len(decoders._processes.idle) < 2:
            run(decoders, *[InputFiles(clip=clip)] * 4)
        for process in decoders._processes.idle:
            os.kill(process.pid, signal.SIGSTOP)
        for decoded in run(decoders, InputFiles(clip=clip), InputFiles(clip=clip)):
            good(decoded)
        assert decoders.restarts == 2


def test_a_process_stopped_while_it_reads_costs_a_retry(clip: bytes) -> None:
    async def scenario(decoders: DecoderPool) -> DecodeResult:
        reading = asyncio.create_task(decoders.decode(SLOW, PATIENT))
        await asyncio.to_thread(wait_until, lambda: cpu_ticks(busy_pid(decoders)) > 20)
        first = busy_pid(decoders)
        os.kill(first, signal.SIGSTOP)
        await asyncio.to_thread(wait_until, lambda: busy_pid(decoders) not in (None, first))
        reading.cancel()
        await asyncio.wait([reading])
        return await decoders.decode(InputFiles(clip=clip), WANTED)

    with started() as decoders:
        good(asyncio.run(scenario(decoders)))
        assert decoders.restarts == 1, "the second process is lost to nothing but the test's end"


def test_files_are_not_blamed_where_no_process_begins(
    monkeypatch: pytest.MonkeyPatch, clip: bytes
) -> None:
    fork = ProcessSet.fork

    def stopped(processes: ProcessSet) -> Process:
        process = fork(processes)
        os.kill(process.pid, signal.SIGSTOP)
        return process

    monkeypatch.setattr(ProcessSet, "fork", stopped)
    with started() as decoders:
        (refused,) = run(decoders, InputFiles(clip=clip))
        assert problem(refused).error is Error.NOT_READY
        assert problem(refused).field is None


def test_heartbeats_detect_stopped_idle_processes(clip: bytes) -> None:
    with started() as decoders:
        good(run(decoders, InputFiles(clip=clip))[0])
        assert decoders._processes.reap_idle() == 0
        stopped = idle_pid(decoders)
        os.kill(stopped, signal.SIGSTOP)
        assert decoders._processes.reap_idle() == 1
        assert not decoders._processes.idle
        good(run(decoders, InputFiles(clip=clip))[0])
        assert decoders.restarts == 1


def test_a_process_that_waits_for_a_cpu_is_not_asleep(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    status = ProcStatus(1)
    status._stat = stat
    line = "1 (a) b) {} " + " ".join(["0"] * 10) + " {} 0 0 0"
    for look in range(100):
        stat.write_text(line.format("R", 5))
        status.check_awake()
        stat.write_text(line.format("S", look))  # its CPU time grows
        status.check_awake()
    for _ in range(_MAX_ASLEEP_CHECKS - 1):
        status.check_awake()
    with pytest.raises(Unresponsive, match="hangs"):
        status.check_awake()
    stat.write_text(line.format("T", 0))
    with pytest.raises(Unresponsive, match="stopped"):
        status.check_not_stopped()
    stat.unlink()
    status.check_not_stopped()  # where the system hides it, it counts as alive


def test_not_ready_only_while_all_processes_are_busy_for_long() -> None:
    async def scenario(decoders: DecoderPool) -> None:
        tasks = []
        for expected in (None, "Every decoding process"):
            tasks.append(asyncio.create_task(decoders.decode(SLOW, PATIENT)))
            await asyncio.to_thread(wait_until, lambda: len(decoders._processes.busy) == len(tasks))
            await asyncio.sleep(0.1)
            assert (decoders.not_ready_reason(0.05) or "None").startswith(expected or "None")
            assert decoders.not_ready_reason(60) is None, "they may be at large files"
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert decoders.not_ready_reason(0.05) is None

    with started(workers=2) as decoders:
        good(run(decoders, InputFiles(audio=wav(tone())))[0])
        asyncio.run(scenario(decoders))


def test_a_clip_without_memory_for_its_tensors_is_refused_and_the_next_is_read(clip: bytes) -> None:
    """The rest of a refused result must not be read as the next one."""
    is_short = True

    def allocate(shape: Sequence[int], dtype: str) -> NDArray[Any]:
        if is_short:
            raise MemoryError("none")
        return np.empty(shape, dtype)

    with started(allocate=allocate) as decoders:
        (refused,) = run(decoders, InputFiles(clip=clip))
        assert (problem(refused).error, problem(refused).field) == (Error.FULL, None)
        is_short = False
        good(run(decoders, InputFiles(clip=clip))[0])


def test_a_file_beyond_the_memory_limit_is_refused_and_its_process_kept(clip: bytes) -> None:
    large = png(np.zeros((5000, 5000, 3), np.uint8))
    with started(DecodeLimits(seconds=60, memory_bytes=64 * MIB)) as decoders:
        refused, fine = run(decoders, InputFiles(frames=(large,)), InputFiles(clip=clip))
        assert problem(refused).error in (Error.TOO_LARGE, Error.UNUSABLE)
        assert problem(refused).field in ("frames", None)
        good(fine)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_a_process_uses_its_memory_again() -> None:
    """By default glibc maps the blocks of each clip anew, at thousands of page faults."""
    picture = cv2.resize(media_files.quadrants(), (1280, 720), interpolation=cv2.INTER_NEAREST)
    frames = [np.roll(picture, 8 * n, axis=1) for n in range(8)]
    files = InputFiles(video=media_files.clip("mp4", "libx264", frames))
    request = DecodeRequest.from_card(CARD, STEPS, canvas=False)
    with started() as decoders:
        for _ in range(4):
            good(run(decoders, files, request=request)[0])
        before = page_faults(idle_pid(decoders))
        for _ in range(4):
            good(run(decoders, files, request=request)[0])
        assert page_faults(idle_pid(decoders)) - before < 4 * 2500


def test_a_file_that_kills_its_decoder_twice_is_blamed(
    monkeypatch: pytest.MonkeyPatch, clip: bytes
) -> None:
    """A worker that dies of this job stands for a decoder with a hole in it."""
    die = Process.decode

    def deadly(
        process: Process, files: InputFiles, request: DecodeRequest, *rest: Any
    ) -> DecodeResult:
        if "audio" in files:
            os.kill(process.pid, signal.SIGSEGV)
        return die(process, files, request, *rest)

    monkeypatch.setattr(Process, "decode", deadly)
    with started(workers=2) as decoders:
        blamed, fine = run(decoders, InputFiles(audio=wav(tone())), InputFiles(clip=clip))
        assert problem(blamed).error is Error.UNUSABLE
        assert problem(blamed).field == "audio"
        good(fine)
        assert decoders.restarts == 2


def test_a_job_cancelled_in_the_queue_never_runs(clip: bytes) -> None:
    async def scenario(decoders: DecoderPool) -> None:
        first = asyncio.create_task(decoders.decode(SLOW, PATIENT))
        await asyncio.to_thread(wait_until, lambda: busy_pid(decoders) is not None)
        (process,) = decoders._processes.busy
        second = asyncio.create_task(decoders.decode(InputFiles(clip=clip), WANTED))
        await asyncio.sleep(0.1)
        second.cancel()
        await asyncio.wait([second])
        assert second.cancelled()
        assert decoders._processes.busy == {process}
        assert process.job_count == 1
        first.cancel()
        await asyncio.wait([first])
        assert not decoders._processes.idle, "no process has had a whole job"

    with started() as decoders:
        asyncio.run(scenario(decoders))


def test_a_job_cancelled_while_it_is_read_ends_its_process(clip: bytes) -> None:
    async def scenario(decoders: DecoderPool) -> tuple[int, DecodeResult]:
        slow = asyncio.create_task(decoders.decode(SLOW, PATIENT))
        await asyncio.to_thread(wait_until, lambda: cpu_ticks(busy_pid(decoders)) > 5)
        pid = busy_pid(decoders)
        assert pid is not None
        slow.cancel()
        await asyncio.wait([slow])
        assert slow.cancelled()
        assert not decoders._processes.busy, "a request goes before its process's place is free"
        return pid, await decoders.decode(InputFiles(clip=clip), WANTED)

    with started() as decoders:
        pid, decoded = asyncio.run(scenario(decoders))
        good(decoded)
        wait_until(lambda: pid not in children_of(fork_server_pid(decoders)))
        assert decoders.restarts == 0, "a cancelled request is no fault of a process"


def test_a_job_cancelled_while_the_fork_server_starts_does_not_wait_for_it(
    clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that hangs takes a minute, and an answer has to come at its deadline."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setattr(fork_server_process, "_WORKER", "tests.service.never_begins")
    monkeypatch.setattr(fork_server, "END_S", 0.1)
    decoders = DecoderPool(1, GENEROUS)

    async def scenario() -> None:
        waiting = asyncio.create_task(decoders.decode(InputFiles(clip=clip), WANTED))
        await asyncio.to_thread(wait_until, lambda: decoders._fork_server.silent_s > 0)
        waiting.cancel()
        done, _ = await asyncio.wait([waiting], timeout=20)
        assert done
        assert waiting.cancelled()

    try:
        asyncio.run(scenario())
    finally:
        decoders.stop()


def test_a_live_stream_does_not_wait_longer_for_the_start_of_its_decoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setattr(fork_server_process, "_WORKER", "tests.service.never_begins")
    monkeypatch.setattr(fork_server, "END_S", 0.1)
    decoders = DecoderPool(1, GENEROUS)

    async def scenario() -> Problem:
        request = LiveRequest(inputs={}, spacing_ns=0, limits=Limits())
        try:
            with pytest.raises(Problem) as caught:
                await asyncio.wait_for(decoders.open_live(request, 1 << 20, within_s=0.05), 20)
        finally:
            decoders.stop()
        return caught.value

    problem = asyncio.run(scenario())
    assert problem.error is Error.NOT_READY
    assert problem.detail == "No decoding process has started within 0.05 s."


def test_a_request_cancelled_twice_still_waits_for_its_process() -> None:
    async def scenario(decoders: DecoderPool) -> None:
        slow = asyncio.create_task(decoders.decode(SLOW, PATIENT))
        await asyncio.to_thread(wait_until, lambda: cpu_ticks(busy_pid(decoders)) > 5)
        with decoders._fork_server._lock:  # so that the process's end is not ordered yet
            for _ in range(3):
                slow.cancel()
                await asyncio.sleep(0.05)
            assert not slow.done()
            assert decoders._processes.busy
        await asyncio.wait([slow])
        assert slow.cancelled()
        assert not decoders._processes.busy

    with started() as decoders:
        asyncio.run(scenario(decoders))


def test_files_of_a_job_cancelled_in_the_queue_are_freed(clip: bytes) -> None:
    async def scenario(decoders: DecoderPool) -> None:
        first = asyncio.create_task(decoders.decode(SLOW, PATIENT))
        await asyncio.to_thread(wait_until, lambda: busy_pid(decoders) is not None)
        files = InputFiles(clip=clip)
        gone = weakref.ref(files)
        queued = asyncio.create_task(decoders.decode(files, WANTED))
        del files
        await asyncio.sleep(0.05)
        assert gone() is not None
        queued.cancel()
        await asyncio.wait([queued])
        del queued
        assert not first.done()
        gc.collect()
        assert gone() is None
        first.cancel()
        await asyncio.wait([first])

    with started() as decoders:
        asyncio.run(scenario(decoders))


def test_reaping_leaves_no_more_processes_than_allowed(
    monkeypatch: pytest.MonkeyPatch, clip: bytes
) -> None:
    heartbeat = Process.heartbeat

    with started() as decoders:

        def slow(process: Process) -> None:
            heartbeat(process)
            good(run(decoders, InputFiles(clip=clip))[0])  # which finds no idle process

        good(run(decoders, InputFiles(clip=clip))[0])
        monkeypatch.setattr(Process, "heartbeat", slow)
        for _ in range(3):
            assert decoders._processes.reap_idle() == 0
        wait_until(lambda: len(decoders._processes.idle) == 1)
        pid_before = idle_pid(decoders)
        wait_until(lambda: children_of(fork_server_pid(decoders)) == [pid_before])


def test_files_are_not_blamed_where_the_fork_server_is_lost_with_its_processes(
    monkeypatch: pytest.MonkeyPatch, clip: bytes
) -> None:
    read = Process.decode

    def lost(
        process: Process, files: InputFiles, request: DecodeRequest, *rest: Any
    ) -> DecodeResult:
        os.kill(fork_server_pid(decoders), signal.SIGKILL)
        wait_until(lambda: process.has_ended)
        return read(process, files, request, *rest)

    with started() as decoders:
        good(run(decoders, InputFiles(clip=clip))[0])
        with monkeypatch.context() as patched:
            patched.setattr(Process, "decode", lost)
            (refused,) = run(decoders, InputFiles(clip=clip))
        assert problem(refused).error is Error.NOT_READY
        good(run(decoders, InputFiles(clip=clip))[0])


@given(delays=st.lists(st.floats(0, 0.06), min_size=1, max_size=6))
@settings(max_examples=15)
def test_jobs_cancelled_at_any_moment_do_not_affect_others(
    shared_decoders: DecoderPool, clip: bytes, delays: list[float]
) -> None:
    async def scenario() -> None:
        uncancelled = [asyncio.create_task(shared_decoders.decode(InputFiles(clip=clip), WANTED))]
        cancelled = []
        for delay in delays:
            task = asyncio.create_task(shared_decoders.decode(InputFiles(clip=clip), WANTED))
            asyncio.get_running_loop().call_later(delay, task.cancel)
            cancelled.append(task)
        uncancelled.append(
            asyncio.create_task(shared_decoders.decode(InputFiles(clip=clip), WANTED))
        )
        for decoded in await asyncio.gather(*uncancelled):
            good(decoded)
        for decoded_or_none in await asyncio.gather(*cancelled, return_exceptions=True):
            assert isinstance(decoded_or_none, DecodeResult | asyncio.CancelledError)
        assert not shared_decoders._processes.busy

    asyncio.run(scenario())


def test_file_descriptors_above_1023_work(clip: bytes) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip(f"the limit of open files is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    with ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        null = os.open(os.devnull, os.O_RDONLY)
        opened.callback(os.close, null)
        while (copy := os.dup(null)) < 1024:
            opened.callback(os.close, copy)
        opened.callback(os.close, copy)
        decoders = opened.enter_context(started())
        good(run(decoders, InputFiles(clip=clip))[0])


def test_processes_are_replaced_after_a_number_of_jobs(
    monkeypatch: pytest.MonkeyPatch, clip: bytes
) -> None:
    monkeypatch.setattr(process_set, "_MAX_JOBS", 2)
    with started() as decoders:
        pids = set()
        for _ in range(4):
            good(run(decoders, InputFiles(clip=clip))[0])
            if decoders._processes.idle:
                pids.add(idle_pid(decoders))
        assert len(pids) == 2
        assert decoders.restarts == 0


def test_no_process_is_left_after_stop(clip: bytes) -> None:
    with started(workers=2) as decoders:
        run(decoders, *[InputFiles(clip=clip)] * 4)
        parent = fork_server_pid(decoders)
        workers = children_of(parent)
        assert workers
    for pid in (parent, *workers):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="libseccomp is Linux's")
def test_a_confined_process_opens_nothing_and_starts_nothing(tmp_path: Path) -> None:
    """As an attacker who controls a decoding process may try."""
    script = textwrap.dedent(
        """
        import os, socket, sys, threading
        from service.decoding import sandbox
        print(*sandbox.confine(64 << 20).names, flush=True)
        def refused(what):
            try:
                what()
            except (PermissionError, OSError) as exc:
                return type(exc).__name__
            return "allowed"
        print(refused(lambda: open("/etc/passwd")))
        print(refused(lambda: open(sys.argv[1], "w")))
        print(refused(lambda: socket.socket()))
        print(refused(os.fork))
        print(refused(lambda: os.execv("/bin/true", ["true"])))
        print(refused(lambda: os.kill(os.getppid(), 0)))
        thread = threading.Thread(target=lambda: print("a thread ran"))
        thread.start()
        thread.join()
        try:
            bytearray(200 << 20)
            print("allowed")
        except MemoryError:
            print("MemoryError")
        """
    )
    left = tmp_path / "left"
    completed = subprocess.run(
        [sys.executable, "-c", script, str(left)], capture_output=True, text=True, check=True
    )
    walls, *attempts = completed.stdout.splitlines()
    if "seccomp" not in walls:
        pytest.skip("libseccomp is not installed")
    assert attempts == ["PermissionError"] * 6 + ["a thread ran", "MemoryError"]
    assert not left.exists()
