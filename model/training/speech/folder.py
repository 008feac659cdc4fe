"""The folder of spoken digits: recordings of four speakers, one of whom is held out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

from model.arrays import Float32Array
from model.training.task import DataError

#: Takes of each digit, by speaker: recordings [n] by digit.
Words = Mapping[str, Sequence[Sequence[Float32Array]]]

#: Sample rate of the recordings, Hz.
RATE = 8000

_FILE = re.compile(r"([0-9])_([^_]+)_([0-9]+)\.wav")
_PATTERN = "DIGIT_SPEAKER_TAKE.wav (as 7_george_0.wav)"
#: Greatest number of faults that one message names.
_MAX_FAULTS = 8


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


def raise_faults(folder: Path, faults: Iterator[str] | Sequence[str]) -> None:
    """Raise DataError that names the first faults, if any."""
    faults = list(faults)
    if not faults:
        return
    more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
    raise DataError(f"{folder}: " + "; ".join(faults[:_MAX_FAULTS]) + more)
