"""Digits spoken by espeak-ng: synthetic speakers in addition to the few real ones."""

from __future__ import annotations

import io
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from rich.console import Console

from model.training.speech.folder import RATE
from model.training.task import DataError

Floats = NDArray[np.float32]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: The words in espeak-ng's phonemes, for voices of other languages: English with an accent.
PHONEMES = (
    "z'i@roU", "w'On", "t'u:", "Tr'i:", "f'o@", "f'aIv", "s'Iks", "s'Ev@n", "'eIt", "n'aIn",
)  # fmt: skip
ENGLISH = (
    "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029", "en-us-nyc",
)  # fmt: skip
ACCENTS = ("de", "fr-fr", "el", "it", "es", "nl", "pl", "sv", "ru", "tr", "hu", "da")
VARIANTS = (
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5", "klatt", "klatt2",
    "klatt3", "klatt4", "adam", "anika", "belinda", "david", "ed", "iven", "linda", "max",
    "michel", "pablo", "quincy", "rob", "steph", "travis", "victor", "Alicia", "Andrea", "Denis",
    "Gene", "Lee", "Mario", "Michael", "Mike",
)  # fmt: skip


def available() -> bool:
    """Return whether espeak-ng is installed."""
    return shutil.which("espeak-ng") is not None


def words(count: int, cache: Path) -> tuple[tuple[Floats, ...], ...]:
    """Return `count` takes of every digit, by digit, at RATE Hz; none without espeak-ng.

    They are stored in the folder `cache`. Raises DataError where the stored ones are damaged.
    """
    if not count:
        return ()
    if not available():
        Console(stderr=True).print("espeak-ng is not installed: training without synthetic voices")
        return ()
    takes: list[list[Floats]] = [[] for _ in range(10)]
    for digit, samples in speakers(count, RATE, cache / f"voices-{count}.npz"):
        takes[digit].append(samples)
    return tuple(tuple(samples) for samples in takes)


def say(digit: int, voice: str, speed: int, pitch: int, rate: int) -> Floats:
    """Synthesize one digit as mono samples at `rate` Hz.

    `voice` in espeak-ng's notation (`en-us+f3`), `speed` in words per minute, `pitch` 0 to 99.
    Raises subprocess.CalledProcessError for an unknown voice.
    """
    english = voice.startswith("en")
    text = WORDS[digit] if english else f"[[{PHONEMES[digit]}]]"
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout
    # The header of a stream gives no length; what follows its 44 bytes is 16-bit mono.
    header_rate = int.from_bytes(spoken[24:28], "little")
    samples, _ = soundfile.read(
        io.BytesIO(spoken[44:]), dtype="float32", format="RAW", subtype="PCM_16",
        channels=1, samplerate=header_rate,
    )  # fmt: skip
    return trim(np.asarray(soxr.resample(samples, header_rate, rate), np.float32))


def trim(samples: Floats) -> Floats:
    """Cut off what is 40 dB below the peak at either end."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=0))
    return samples[loud[0] : loud[-1] + 1] if loud.size else samples[:1]


def speakers(count: int, rate: int, cache: Path, seed: int = 0) -> list[tuple[int, Floats]]:
    """Return `count` takes of every digit by random voices, as (digit, samples at `rate` Hz).

    They are made once and stored in `cache` (.npz). Two in five takes have a foreign accent. Raises
    DataError where the cache is damaged.
    """
    if cache.exists():
        try:
            with np.load(cache) as stored:
                return [(int(name.split("_")[1]), stored[name]) for name in stored.files]
        except Exception as exc:  # numpy and zipfile raise many kinds of errors for damaged bytes
            raise DataError(f"{cache}: cannot be read: {exc}; delete it to recreate it") from exc
    rng = np.random.default_rng(seed)
    jobs = []
    for take in range(count):
        for digit in range(10):
            voice = str(rng.choice(ENGLISH if rng.random() < 0.6 else ACCENTS))
            voice = f"{voice}+{rng.choice(VARIANTS)}"
            speed, pitch = int(rng.integers(100, 220)), int(rng.integers(10, 90))
            jobs.append((take, digit, voice, speed, pitch))
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda job: say(job[1], job[2], job[3], job[4], rate), jobs))
    cache.parent.mkdir(parents=True, exist_ok=True)
    names = [f"digit_{digit}_{take}" for take, digit, *_ in jobs]
    part = cache.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **dict(zip(names, said, strict=True)))  # type: ignore[arg-type]
    part.replace(cache)  # atomic: the file is never incomplete
    return [(job[1], samples) for job, samples in zip(jobs, said, strict=True)]
