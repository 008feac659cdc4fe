"""Digits spoken by espeak-ng: synthetic speakers in addition to the few real ones."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr
from rich.console import Console

from model.arrays import Float32Array
from model.training.speech.folder import RATE
from model.training.task import DataError
from model.whole_file import replacing

#: A text, and the voice, speed and pitch that say it.
Job = tuple[str, str, int, int]

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

#: Words that are no digits and sound like none.
OTHER_WORDS = (  # noqa: SIM905 (300 quoted words is harder to read)
    "about above after again air all animal answer apple arm back ball bank base beach bear "
    "because bed behind bell better bird black blue boat book both bottle box bread bridge "
    "bring brother brown build butter call camera car carry cat cause chair change child circle "
    "city clean clock close cloud coffee cold colour come computer corner cotton country cream "
    "dance danger daughter deep desk different dinner doctor dog door double down dream drink "
    "drive drum each early east easy egg engine even evening every face family farm father "
    "feather feel field fill final find finger fire fish flower fly follow foot forest fresh "
    "friend front garden girl give glass go gold good grass green ground hair half hand happy "
    "hard head hello help here high hold home honey horse hospital hot house how hundred idea "
    "island jump keep kitchen lamp language large laugh leaf left lemon letter light line "
    "listen little long machine make market maybe me middle milk minute monday money moon "
    "morning mother mountain mouth move music name near never new night no north nose now "
    "number ocean office open orange other over page paper party pen people picture place plant "
    "play please point pocket power pretty purple question quick quiet radio rain read ready "
    "red remember rice right ring river road robot rock room round run salt same sand saturday "
    "school sea second shoe short show silver sister sleep slow small smile snow soft song soon "
    "sound south spring stand star start stone stop story street sugar summer sun supper sure "
    "swim table talk tall teacher telephone thank there thing thirty thousand thunder ticket "
    "today together tomorrow tree trouble turn uncle under up very village visit voice wait "
    "walk wall warm wash watch water weather week west wheel white why wide window winter with "
    "wood word work world write yellow yes yesterday you young "
).split()
#: Words that are never trained on.
TEST_WORDS = OTHER_WORDS[::5]


def available() -> bool:
    """Return whether espeak-ng is installed."""
    return shutil.which("espeak-ng") is not None


def words(count: int, cache: Path) -> tuple[tuple[Float32Array, ...], ...]:
    """Return `count` takes of every digit, by digit, at RATE Hz; none without espeak-ng.

    They are stored in the folder `cache`. Raises DataError where the stored ones are damaged.
    """
    if not count:
        return ()
    if not available():
        Console(stderr=True).print("espeak-ng is not installed: training without synthetic voices")
        return ()
    takes: list[list[Float32Array]] = [[] for _ in range(10)]
    for digit, samples in speakers(count, RATE, cache / f"voices-{count}.npz"):
        takes[digit].append(samples)
    return tuple(tuple(samples) for samples in takes)


def spelling(digit: int, voice: str) -> str:
    """Return a digit's word as this voice pronounces it: English, with the voice's accent."""
    return WORDS[digit] if voice.startswith("en") else f"[[{PHONEMES[digit]}]]"


def say(text: str, voice: str, speed: int, pitch: int, rate: int) -> Float32Array:
    """Synthesize a text as mono samples at `rate` Hz.

    `text` and `voice` in espeak-ng's notation (`en-us+f3`), `speed` in words per minute, `pitch` 0
    to 99. Raises subprocess.CalledProcessError for an unknown voice.
    """
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout
    # The header of a stream gives no length; what follows its 44 bytes is 16-bit mono.
    header_rate = int.from_bytes(spoken[24:28], "little")
    samples, _ = soundfile.read(
        io.BytesIO(spoken[44:]), dtype="float32", format="RAW", subtype="PCM_16",
        channels=1, samplerate=header_rate,
    )  # fmt: skip
    return trim(np.asarray(soxr.resample(samples, header_rate, rate), np.float32))


def trim(samples: Float32Array) -> Float32Array:
    """Cut off what is 40 dB below the peak at either end."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=0))
    return samples[loud[0] : loud[-1] + 1] if loud.size else samples[:1]


def speakers(count: int, rate: int, cache: Path, seed: int = 0) -> list[tuple[int, Float32Array]]:
    """Return `count` takes of every digit by random voices, as (digit, samples at `rate` Hz).

    They are made once and stored in `cache` (.npz). Two in five takes have a foreign accent. Raises
    DataError where the cache is damaged.
    """
    rng = np.random.default_rng(seed)
    jobs: dict[str, Job] = {}
    for take in range(count):
        for digit in range(10):
            voice, speed, pitch = _draw_voice(rng)
            jobs[f"digit_{digit}_{take}"] = (spelling(digit, voice), voice, speed, pitch)
    takes = _synthesize_cached(jobs, rate, cache)
    return [(int(name.split("_")[1]), samples) for name, samples in takes.items()]


def other_words(count: int, cache: Path, labels: Sequence[str] = ()) -> tuple[Float32Array, ...]:
    """Return `count` takes of words that are no digits, to train on, at RATE Hz; fewer where some
    are of words that are `labels`.

    None where espeak-ng is not installed. They are stored in the folder `cache`. Raises DataError
    where the stored ones are damaged.
    """
    if not count or not available():
        return ()
    words = [word for word in OTHER_WORDS if word not in TEST_WORDS]
    jobs = _draw_jobs(words, count, np.random.default_rng(1))
    takes = _synthesize_cached(jobs, RATE, cache / f"words-{count}.npz")
    known = {label.casefold() for label in labels}
    return tuple(samples for name, samples in takes.items() if jobs[name][0] not in known)


def unseen_words(count: int, labels: Sequence[str] = ()) -> tuple[Float32Array, ...]:
    """Return `count` takes of words that are never trained on and are no `labels`, at RATE Hz; none
    without espeak-ng."""
    if not available():
        return ()
    known = {label.casefold() for label in labels}
    words = [word for word in TEST_WORDS if word not in known]
    jobs = _draw_jobs(words, count if words else 0, np.random.default_rng(2))
    return tuple(say(*job, RATE) for job in jobs.values())


def _draw_jobs(words: Sequence[str], count: int, rng: np.random.Generator) -> dict[str, Job]:
    """Draw words, and voices that say them, by the name of the take."""
    return {f"word_{take}": (str(rng.choice(words)), *_draw_voice(rng)) for take in range(count)}


def _draw_voice(rng: np.random.Generator) -> tuple[str, int, int]:
    """Draw voice, speed and pitch, as `say` takes them. Two in five voices are not English."""
    voice = str(rng.choice(ENGLISH if rng.random() < 0.6 else ACCENTS))
    voice = f"{voice}+{rng.choice(VARIANTS)}"
    return voice, int(rng.integers(100, 220)), int(rng.integers(10, 90))


def _synthesize_cached(jobs: Mapping[str, Job], rate: int, cache: Path) -> dict[str, Float32Array]:
    """Return each text's samples by its name: from `cache` (.npz), or synthesized and stored."""
    if cache.exists():
        try:
            with np.load(cache) as stored:
                return {name: stored[name] for name in stored.files}
        except Exception as exc:  # numpy and zipfile raise many kinds of errors for damaged bytes
            raise DataError(f"{cache}: cannot be read: {exc}; delete it to recreate it") from exc
    with ThreadPoolExecutor(2) as pool:
        takes = list(pool.map(lambda job: say(job[0], job[1], job[2], job[3], rate), jobs.values()))
    cache.parent.mkdir(parents=True, exist_ok=True)
    with replacing(cache) as file:
        np.savez(file, **dict(zip(jobs, takes, strict=True)))  # type: ignore[arg-type]
    return dict(zip(jobs, takes, strict=True))
