"""Clips decoded once and for all: small pictures and mono sound, a file for each clip."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from zipfile import is_zipfile

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from model.media.audio.downmix import downmix
from model.media.audio.resample import resample_soxr
from model.media.types import Clip, MediaError, Pictures, Sound
from model.training.folder.clip_files import ClipFiles
from model.training.folder.findings import Finding
from model.training.folder.inspection import inspect, unreadable
from model.training.progress import progress_bar
from model.training.task import DataError
from model.whole_file import replacing

#: Changes where entries of another version cannot be used.
VERSION = 2
#: Pictures that are kept of a movie: several for each time step, so that training sees others.
FRAMES = 16
#: Shorter side of a picture that is kept, over the side of the network's: room to crop.
ROOM = 1.25
#: Threads that decode; each holds one clip in memory.
THREADS = 4
_FULL_SCALE = 32_767


@dataclass(frozen=True)
class Entry:
    """A decoded clip in the cache: its file, its class, and the clip's name."""

    file: Path
    label: int
    name: str = ""

    def picture_count(self) -> int:
        """Return the number of its pictures."""
        count = self._array("count")
        return 0 if count is None else int(count)

    def pictures(self) -> Pictures | None:
        """Return its pictures, uint8 RGB [h, w, 3]."""
        frames = self._array("frames")
        if frames is None:
            return None
        return Pictures(tuple(frames), tuple(float(index) for index in range(len(frames))))

    def sound(self) -> Sound | None:
        """Return its sound, mono."""
        samples = self._array("samples")
        if samples is None:
            return None
        rate = self._array("rate")
        assert rate is not None
        scaled = samples.astype(np.float32)[None] / np.float32(_FULL_SCALE)
        return Sound(scaled, int(rate))

    def _array(self, name: str) -> NDArray[np.generic] | None:
        with self.file.open("rb") as raw, np.load(raw) as arrays:
            return np.asarray(arrays[name]) if name in arrays else None


@dataclass(frozen=True)
class Store:
    """A cache of decoded clips in `folder`, for networks of these `streams`.

    Pictures are shrunk to a shorter side of ROOM times `picture_size`; sound is mono at `rate` Hz
    with its peak at full scale. An entry is written whole or not at all, so that a run that was
    killed resumes where it stopped.
    """

    folder: Path
    streams: frozenset[str]
    picture_size: int
    rate: int

    def file(self, digest: str) -> Path:
        """Return the file of a clip, by the digest of its content."""
        settings = [VERSION, FRAMES, sorted(self.streams), self.picture_size, self.rate]
        key = hashlib.sha256(f"{digest} {settings}".encode()).hexdigest()
        return self.folder / f"{key[:32]}.npz"

    def fill(self, clips: Sequence[tuple[ClipFiles, str]], console: Console) -> list[Finding]:
        """Decode the clips that have no entry, under a progress bar; each comes with its digest.

        Returns what is wrong with clips, which have no entry then. Raises DataError where the
        cache cannot be written.
        """
        jobs = [(files, self.file(digest)) for files, digest in clips]
        return decode_missing(self.folder, jobs, self._decode, console)

    def _decode(self, files: ClipFiles, file: Path) -> list[Finding]:
        """Decode and check a clip, and write its entry where nothing is wrong."""
        try:
            clip = files.decode(FRAMES, self.streams)
        except (MediaError, OSError) as exc:
            return [unreadable(files, exc)]
        findings = list(inspect(files, clip, self.streams))
        if not findings:
            write_entry(file, self._arrays(clip))
        return findings

    def _arrays(self, clip: Clip) -> dict[str, NDArray[np.generic]]:
        arrays: dict[str, NDArray[np.generic]] = {}
        if clip.pictures is not None:
            frames = [self._shrink(frame) for frame in clip.pictures.frames]
            still = all(frame is clip.pictures.frames[0] for frame in clip.pictures.frames)
            arrays["frames"] = np.stack(frames[:1] if still else frames)
            arrays["count"] = np.asarray(len(arrays["frames"]))
        if clip.sound is not None:
            samples = downmix(clip.sound)[0].astype(np.float32)
            samples = samples / max(float(np.abs(samples).max()), 1e-9)
            if clip.sound.sample_rate != self.rate:
                samples = resample_soxr(samples, clip.sound.sample_rate, self.rate)
            scaled = np.clip(samples, -1, 1) * _FULL_SCALE
            arrays["samples"] = np.rint(scaled).astype(np.int16)
            arrays["rate"] = np.asarray(self.rate)
        return arrays

    def _shrink(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = frame.shape[:2]
        factor = ROOM * self.picture_size / min(height, width)
        if factor >= 1:
            return frame
        size = max(1, round(width * factor)), max(1, round(height * factor))
        return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def decode_missing(
    folder: Path,
    jobs: Iterable[tuple[ClipFiles, Path]],
    decode: Callable[[ClipFiles, Path], list[Finding]],
    console: Console,
) -> list[Finding]:
    """Decode the clips whose entry in `folder` is missing or incomplete, in threads, under a bar.

    `decode` writes an entry and returns what is wrong. Raises DataError where the folder cannot be
    written.
    """
    copies: dict[Path, list[ClipFiles]] = {}  # clips of the same content have one entry
    for files, file in jobs:
        if not is_zipfile(file):  # or cut off, as by a crash of the machine
            copies.setdefault(file, []).append(files)
    missing = [(same[0], file) for file, same in copies.items()]
    findings: list[Finding] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with progress_bar(console) as progress:
            bar = progress.add_task("decoding clips", total=len(missing))
            decoded = _in_threads(decode, missing)
            for same, wrong in zip(copies.values(), decoded, strict=True):
                findings += [replace(each, where=x.name) for x in same for each in wrong]
                progress.advance(bar)
    except OSError as exc:
        raise DataError(f"{folder}: cannot be written: {exc.strerror}") from exc
    return findings


def write_entry(file: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write the arrays of an entry, whole or not at all. Raises OSError."""
    with replacing(file) as raw:
        np.savez(raw, allow_pickle=False, **arrays)


def _in_threads(
    decode: Callable[[ClipFiles, Path], list[Finding]], jobs: Iterable[tuple[ClipFiles, Path]]
) -> Iterator[list[Finding]]:
    """Yield the results in order, with at most two jobs for each thread waiting."""
    threads = min(THREADS, os.cpu_count() or 1)
    remaining = iter(jobs)
    with ThreadPoolExecutor(threads, "scmrl-folder") as pool:
        waiting: list[Future[list[Finding]]] = []
        try:
            while True:
                for job in islice(remaining, 2 * threads - len(waiting)):
                    waiting.append(pool.submit(decode, *job))
                if not waiting:
                    return
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
