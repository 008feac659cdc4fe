"""Decoding processes: what comes back, what they may not do, and what their deaths cost."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from model.media import Limits
from service.decoding import pool
from service.decoding.files import decode
from service.decoding.job import Decoded, Wanted
from service.decoding.nursery import DecodeLimits
from service.decoding.pool import Decoders
from service.decoding.process import Process
from service.errors import Error, Problem
from service.form import Media
from service.settings import MIB
from tests.model import made
from tests.service import checkpoints
from tests.service.checkpoints import STEPS
from tests.service.media_files import png, tone, wav
from tests.service.server import wait_until

CARD = checkpoints.card()
WANTED = Wanted.of(CARD, STEPS)
GENEROUS = DecodeLimits(seconds=60, memory_bytes=1 << 30)


@contextmanager
def started(limits: DecodeLimits = GENEROUS, workers: int = 1) -> Iterator[Decoders]:
    decoders = Decoders(workers, limits)
    decoders.start()
    try:
        yield decoders
    finally:
        decoders.stop()


def run(decoders: Decoders, *jobs: Media, wanted: Wanted = WANTED) -> list[Decoded | BaseException]:
    """What came of each job; all are given at once."""

    async def scenario() -> list[Decoded | BaseException]:
        tasks = (decoders.decode(job, wanted) for job in jobs)
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(scenario())


def good(found: Decoded | BaseException) -> Decoded:
    assert isinstance(found, Decoded), found
    return found


def problem(found: Decoded | BaseException) -> Problem:
    assert isinstance(found, Problem), found
    return found


def idle_pid(decoders: Decoders) -> int:
    return decoders._idle[-1].pid


def nursery(decoders: Decoders) -> int:
    """The process that starts the others."""
    pid = decoders._nursery.pid
    assert pid is not None
    return pid


@pytest.fixture(scope="module")
def media_examples() -> dict[str, bytes]:
    """A file for each library and each family of codecs."""
    sound = made.tone(0.5, 48_000)
    clips = {
        codec: made.clip(container, codec, sound=sound, sound_codec=sound_codec)
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
    sounds = {kind: made.sound_file(sound, 48_000, kind) for kind in ("WAV", "FLAC", "OGG", "MP3")}
    picture = made.quadrants(80, 60)
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


def test_what_comes_back_is_what_decoding_here_gives(clip: bytes) -> None:
    files = Media(clip=clip)
    here = decode(files, WANTED)
    with started() as decoders:
        there = good(run(decoders, files)[0])
    assert there.streams == here.streams
    assert set(there.prepared) == set(here.prepared)
    for name, prepared in here.prepared.items():
        other = there.prepared[name]
        assert (other.rows, other.columns) == (prepared.rows, prepared.columns)
        for part in ("tensor", "row_edges", "column_edges", "canvas"):
            mine, its = getattr(prepared, part), getattr(other, part)
            assert its.dtype == mine.dtype
            # A process of one thread may add in another order than one of several: BLAS's matter.
            np.testing.assert_allclose(its, mine, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9")])
def test_a_request_that_is_alone_gets_the_same_frames_by_several_threads(
    kind: str, codec: str
) -> None:
    frames = [np.roll(made.quadrants(), n, axis=1) for n in range(40)]
    files = Media(clip=made.clip(kind, codec, frames, group=10, sound=made.tone(1, 48_000),
                                 sound_codec="libopus"))  # fmt: skip
    with started(workers=4) as decoders:
        there = good(run(decoders, files)[0]).prepared["visual"]
    here = decode(files, WANTED).prepared["visual"]
    np.testing.assert_array_equal(there.canvas, here.canvas)
    np.testing.assert_allclose(there.tensor, here.tensor, rtol=0, atol=1e-6)


def test_the_canvas_stays_away_where_nothing_is_drawn(clip: bytes) -> None:
    with started() as decoders:
        wanted = Wanted.of(CARD, STEPS, canvas=False)
        found = good(run(decoders, Media(clip=clip), wanted=wanted)[0])
    assert all(stream.canvas.size == 0 for stream in found.prepared.values())


def test_every_kind_of_upload_is_read_by_a_confined_process(
    clip: bytes, media_examples: dict[str, bytes]
) -> None:
    """What a library loads at first use it can no longer load: each codec is tried as the first."""
    picture = png(made.quadrants(40, 30))
    jobs = {name: Media(clip=data) for name, data in media_examples.items()}
    jobs["files"] = Media(video=clip, audio=wav(tone()))
    jobs["frames"] = Media(frames=(picture,) * 5, audio=clip)
    with started() as decoders:
        for name, job in jobs.items():
            assert isinstance(run(decoders, job)[0], Decoded), name
            os.kill(idle_pid(decoders), signal.SIGKILL)


def test_what_is_wrong_with_a_file_is_told_as_if_it_were_read_here() -> None:
    with started() as decoders:
        refused, large = run(decoders, Media(clip=b"not a clip" * 9), Media(audio=wav(tone())))
        assert problem(refused).error is Error.UNKNOWN_FORMAT
        assert problem(refused).field == "clip"
        short = Wanted.of(CARD, STEPS, replace(Limits(), max_duration_s=0.01))
        (long,) = run(decoders, Media(audio=wav(tone())), wanted=short)
        assert problem(long).error is Error.TOO_LARGE
        assert good(large).streams["audio"].used
        assert decoders.restarts == 0


def test_a_process_that_is_killed_between_two_jobs_costs_none(clip: bytes) -> None:
    with started() as decoders:
        good(run(decoders, Media(clip=clip))[0])
        os.kill(idle_pid(decoders), signal.SIGKILL)
        good(run(decoders, Media(clip=clip))[0])
        assert decoders.restarts == 1


def test_a_nursery_that_is_killed_is_started_again(clip: bytes) -> None:
    with started() as decoders:
        good(run(decoders, Media(clip=clip))[0])
        os.kill(nursery(decoders), signal.SIGKILL)
        good(run(decoders, Media(clip=clip))[0])


def test_keys_are_not_in_the_environment_of_who_reads_uploads(
    clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who takes a decoding process over could send what is in its memory as an answer."""
    monkeypatch.setenv("SCMRL_API_KEYS", "anna:0123456789abcdef")
    monkeypatch.setenv("SCMRL_ADMIN_KEY", "0123456789abcdef")
    with started() as decoders:
        good(run(decoders, Media(clip=clip))[0])
        try:
            environment = Path(f"/proc/{nursery(decoders)}/environ").read_bytes()
        except PermissionError:
            pytest.skip("only root may read the environment of a process that is not dumpable")
        assert b"OMP_NUM_THREADS=1" in environment
        assert b"0123456789abcdef" not in environment


def test_a_process_that_hangs_costs_its_own_files_alone(clip: bytes) -> None:
    with started(DecodeLimits(seconds=1, memory_bytes=1 << 30)) as decoders:
        good(run(decoders, Media(clip=clip))[0])
        os.kill(idle_pid(decoders), signal.SIGSTOP)
        began = time.monotonic()
        hung, after = run(decoders, Media(clip=clip), Media(clip=clip))
        assert problem(hung).error is Error.DECODE_TIMEOUT
        assert problem(hung).field == "clip"
        assert 1 <= time.monotonic() - began < 20
        good(after)


def test_processes_that_all_hang_are_trouble_and_one_of_two_is_none(clip: bytes) -> None:
    async def scenario(decoders: Decoders) -> None:
        await asyncio.gather(*[decoders.decode(Media(clip=clip), WANTED) for _ in range(8)])
        assert len(decoders._idle) == 2
        asked = []
        for expected in (None, "Every decoding process"):
            process = decoders._idle[-1]
            os.kill(process.pid, signal.SIGSTOP)
            asked.append(asyncio.create_task(decoders.decode(Media(clip=clip), WANTED)))
            await asyncio.to_thread(wait_until, partial(decoders._reading.__contains__, process))
            await asyncio.sleep(0.1)
            assert (decoders.trouble(0.05) or "None").startswith(expected or "None")
            assert decoders.trouble(60) is None, "they may be at large files"
        for process in list(decoders._reading):
            os.kill(process.pid, signal.SIGCONT)
        await asyncio.gather(*asked)
        assert decoders.trouble(0.05) is None

    with started(workers=2) as decoders:
        while len(decoders._idle) < 2:
            for decoded in run(decoders, *[Media(clip=clip)] * 4):
                good(decoded)
        asyncio.run(scenario(decoders))


def test_memory_beyond_the_limit_is_refused_and_the_process_goes_on(clip: bytes) -> None:
    large = png(np.zeros((5000, 5000, 3), np.uint8))
    with started(DecodeLimits(seconds=60, memory_bytes=64 * MIB)) as decoders:
        refused, fine = run(decoders, Media(frames=(large,)), Media(clip=clip))
        assert problem(refused).error in (Error.TOO_LARGE, Error.UNUSABLE)
        assert problem(refused).field in ("frames", None)
        good(fine)


def test_a_file_that_kills_its_decoder_is_blamed_once_tried_twice(
    monkeypatch: pytest.MonkeyPatch, clip: bytes
) -> None:
    """A worker that dies of this job stands for a decoder with a hole in it."""
    die = Process.decode

    def deadly(process: Process, files: Media, wanted: Wanted, seconds: float) -> Decoded:
        if files.audio:
            os.kill(process.pid, signal.SIGSEGV)
        return die(process, files, wanted, seconds)

    monkeypatch.setattr(Process, "decode", deadly)
    with started(workers=2) as decoders:
        blamed, fine = run(decoders, Media(audio=wav(tone())), Media(clip=clip))
        assert problem(blamed).error is Error.UNUSABLE
        assert problem(blamed).field == "audio"
        good(fine)
        assert decoders.restarts == 2


def test_what_was_cancelled_while_it_waited_is_never_run(clip: bytes) -> None:
    async def scenario(decoders: Decoders) -> int:
        await decoders.decode(Media(clip=clip), WANTED)
        os.kill(idle_pid(decoders), signal.SIGSTOP)
        process = decoders._idle[-1]
        first = asyncio.create_task(decoders.decode(Media(clip=clip), WANTED))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(decoders.decode(Media(clip=clip), WANTED))
        await asyncio.sleep(0.1)
        second.cancel()
        await asyncio.wait([second])
        os.kill(process.pid, signal.SIGCONT)
        await first
        return process.jobs

    with started() as decoders:
        assert asyncio.run(scenario(decoders)) == 2


def test_processes_are_replaced_before_what_leaks_adds_up(
    monkeypatch: pytest.MonkeyPatch, clip: bytes
) -> None:
    monkeypatch.setattr(pool, "_JOBS", 2)
    with started() as decoders:
        pids = set()
        for _ in range(4):
            good(run(decoders, Media(clip=clip))[0])
            if decoders._idle:
                pids.add(idle_pid(decoders))
        assert len(pids) == 2
        assert decoders.restarts == 0


def test_nothing_is_left_when_it_stops(clip: bytes) -> None:
    with started(workers=2) as decoders:
        run(decoders, *[Media(clip=clip)] * 4)
        parent = nursery(decoders)
        workers = children_of(parent)
        assert workers
    for pid in (parent, *workers):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="libseccomp is Linux's")
def test_a_confined_process_opens_nothing_and_starts_nothing(tmp_path: Path) -> None:
    """What somebody tries who has taken a decoder over."""
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
    found = subprocess.run(
        [sys.executable, "-c", script, str(left)], capture_output=True, text=True, check=True
    )
    walls, *attempts = found.stdout.splitlines()
    if "seccomp" not in walls:
        pytest.skip("libseccomp is not installed")
    assert attempts == ["PermissionError"] * 6 + ["a thread ran", "MemoryError"]
    assert not left.exists()
