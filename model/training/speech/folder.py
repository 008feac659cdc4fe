"""The folder of spoken digits: recordings of four speakers, one of whom is held out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

from model.arrays import Float32Array
from model.training.data_folder import raise_faults
from model.training.speech.held_out import HELD_OUT_SPEAKER
from model.training.task import DataError

#: Takes of each digit, by speaker: recordings [n] by digit.
Words = Mapping[str, Sequence[Sequence[Float32Array]]]

#: Sample rate of the recordings, Hz.
RATE = 8000

_FILE = re.compile(r"([0-9])_([^_]+)_([0-9]+)\.wav")
_PATTERN = "DIGIT_SPEAKER_TAKE.wav (as 7_george_0.wav)"


def read_words(folder: Path) -> Words:
    """Read the takes by speaker and digit, from DIGIT_SPEAKER_TAKE.wav.

    Raises DataError, naming the files, where one is damaged or wrongly named.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as exc:
        raise DataError(f"{folder}: cannot be read: {exc.strerror}") from exc
    spoken: dict[str, list[list[Float32Array]]] = {}
    faults: list[str] = []
    for name in names:
        if not name.lower().endswith(".wav"):
            continue
        parts = _FILE.fullmatch(name)
        if parts is None:
            faults.append(f"{name}: its name is not {_PATTERN}")
            continue
        samples, fault = _recording(folder / name)
        if fault:
            faults.append(f"{name}: {fault}")
        spoken.setdefault(parts[2], [[] for _ in range(10)])[int(parts[1])].append(samples)
    raise_faults(folder, faults)
    return spoken


def _recording(file: Path) -> tuple[Float32Array, str]:
    """Return mono samples [n], and what is wrong with them or the empty string."""
    silence = np.zeros(0, np.float32)
    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as exc:
        return silence, f"cannot be read: {exc}"
    if rate != RATE:
        return silence, f"{rate} Hz instead of {RATE}"
    if samples.shape[1] != 1:
        return silence, f"{samples.shape[1]} channels instead of 1"
    if not len(samples):
        return silence, "has no samples"
    if not np.isfinite(samples).all():
        return silence, "has values that are not finite"
    return samples[:, 0], ""


def find_speech(folder: Path) -> Path:
    """Return `avdigits/speech` or `speech` in a data folder. Raises DataError."""
    for speech in (folder / "avdigits" / "speech", folder / "speech"):
        if speech.is_dir():
            return speech
    raise DataError(f"{folder}: needs avdigits/speech or speech, the folder of recordings")


def takes_by_digit(spoken: Words, *, held_out: bool) -> tuple[tuple[Float32Array, ...], ...]:
    """Return the takes by digit, of HELD_OUT_SPEAKER or of all others."""
    speakers = [name for name in sorted(spoken) if (name == HELD_OUT_SPEAKER) == held_out]
    return tuple(tuple(word for name in speakers for word in spoken[name][d]) for d in range(10))
