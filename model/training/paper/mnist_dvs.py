"""Find the recordings of MNIST-DVS: MNIST's digits before an event camera, a file each."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from model.training.folder.findings import Finding
from model.training.task import DataError

#: Sizes at which the digits were shown, and recordings of each digit at each of them.
SCALES, RECORDINGS = ("4", "8", "16"), 1000
#: Numbers of absent recordings that a finding lists.
_LISTED = 5
_NAME = re.compile(r"mnist_(\d)_scale(\d\d)_(\d{4,5})\.aedat")


@dataclass(frozen=True)
class Recording:
    """One recording: its file, the digit, and its number, from 1."""

    path: Path
    digit: int
    number: int


def list_mnist_dvs(data: Path, scale: str) -> tuple[list[Recording], list[Finding]]:
    """Return the recordings at a scale, by digit and number, and what is wrong with names.

    They may lie in any folder below `data`, such as grabbed_data0/scale4/. Raises DataError where
    there is none.
    """
    recordings: dict[tuple[int, int], Recording] = {}
    findings = []
    for path in _aedat_files(data):
        name = path.relative_to(data).as_posix()
        match = _NAME.fullmatch(path.name)
        if match is None:
            message = "is not named mnist_DIGIT_scaleNN_NUMBER.aedat, such as mnist_0_scale04_0001"
            findings.append(Finding("wrong name", name, message))
            continue
        if int(match[2]) != int(scale):
            continue
        recording = Recording(path, int(match[1]), int(match[3]))
        original = recordings.setdefault((recording.digit, recording.number), recording)
        if original is not recording:
            message = (
                f"is the same recording as {original.path.relative_to(data)}; keep one of them"
            )
            findings.append(Finding("duplicate", name, message))
    if not recordings:
        raise DataError(
            f"{data}: holds no recording of MNIST-DVS at scale {scale}; it must hold "
            f"grabbed_data0/scale{scale}/mnist_0_scale{int(scale):02d}_0001.aedat and so on"
        )
    findings += _absent(recordings, scale)
    return [recordings[key] for key in sorted(recordings)], findings


def _aedat_files(data: Path) -> list[Path]:
    if not data.is_dir():
        raise DataError(f"{data}: is not a folder")
    return sorted(
        Path(folder, name)
        for folder, _, names in os.walk(data)
        for name in names
        if name.endswith(".aedat") and not name.startswith(".")
    )


def _absent(recordings: dict[tuple[int, int], Recording], scale: str) -> list[Finding]:
    """Return a finding for each digit that lacks some of its recordings."""
    findings = []
    for digit in range(10):
        absent = [n for n in range(1, RECORDINGS + 1) if (digit, n) not in recordings]
        if absent:
            first = ", ".join(f"{number:04d}" for number in absent[:_LISTED])
            more = f" and {len(absent) - _LISTED} more" if len(absent) > _LISTED else ""
            message = (
                f"{RECORDINGS - len(absent)} of {RECORDINGS} recordings at scale {scale} are "
                f"there; absent are {first}{more}"
            )
            findings.append(Finding("missing file", f"MNIST-DVS, digit {digit}", message))
    return findings
