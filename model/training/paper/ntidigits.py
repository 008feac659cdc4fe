"""Read N-TIDIGITS18: the digits of TIDIGITS, heard by a silicon cochlea, in one HDF5 file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from model.media.events.types import ChannelEvents, channel_events
from model.media.types import Limits, Unusable
from model.training.folder.findings import Finding
from model.training.task import DataError

#: Name of the published file, its parts, and the channels of the cochlea.
FILE, PARTS, CHANNELS = "n-tidigits.hdf5", ("train", "test"), 64
#: Digits by the last letter of a sample's name. "o" ("oh") has no class in the published task.
DIGITS = {"z": 0, **{str(digit): digit for digit in range(1, 10)}}
_OH = "o"
_LIMITS = Limits()


@dataclass(frozen=True)
class SpokenDigit:
    """A sample: its `part` of the file, its name, such as `man-ah-7`, and the digit."""

    part: str
    name: str
    digit: int

    @property
    def speaker(self) -> str:
        """The name without the digit."""
        return self.name.rpartition("-")[0]


@dataclass(frozen=True)
class NTIDigits:
    """The file's single digits, in its order, how many "oh" were left out, and what is wrong."""

    path: Path
    samples: tuple[SpokenDigit, ...]
    left_out: int
    findings: tuple[Finding, ...]

    def read(self, sample: SpokenDigit) -> ChannelEvents:
        """Return the events of a sample. Raises Unusable and OSError."""
        # Opened each time, so that processes that load data share no position in the file.
        with h5py.File(self.path, "r") as file:
            try:
                channel = np.asarray(file[f"{sample.part}_addresses"][sample.name])
                seconds = np.asarray(file[f"{sample.part}_timestamps"][sample.name], np.float64)
            except (KeyError, ValueError, TypeError) as exc:
                raise Unusable(f"cannot be read: {exc}") from exc
        if not len(channel) or channel.shape != seconds.shape or channel.ndim != 1:
            raise Unusable(
                f"it has addresses {list(channel.shape)} and timestamps {list(seconds.shape)}; "
                "both must be [n], and n at least 1"
            )
        if not np.isfinite(seconds).all() or channel.dtype.kind not in "iuf":
            raise Unusable("it has addresses or timestamps that are not finite numbers")
        if not 0 <= float(channel.min()) <= float(channel.max()) < CHANNELS:
            raise Unusable(
                f"it has channels from {channel.min()} to {channel.max()}; there are 0 to "
                f"{CHANNELS - 1}"
            )
        time_us = (seconds * 1e6).astype(np.int64)
        return channel_events(channel.astype(np.int64), time_us, _LIMITS)


def list_ntidigits(data: Path) -> NTIDigits:
    """Return the single digits of n-tidigits.hdf5, which lies in `data` or a folder of it.

    Raises DataError where there is none, or it cannot be opened.
    """
    files = sorted(data.glob(FILE)) or sorted(data.glob(f"*/{FILE}"))
    if not files:
        raise DataError(f"{data}: holds no {FILE} of N-TIDIGITS18")
    samples: list[SpokenDigit] = []
    findings: list[Finding] = []
    left_out: Counter[str] = Counter()
    try:
        with h5py.File(files[0], "r") as file:
            for part in PARTS:
                of_part, wrong = _list_part(file, part, left_out)
                samples += of_part
                findings += wrong
    except (OSError, KeyError, AttributeError, UnicodeDecodeError) as exc:
        raise DataError(f"{files[0]}: is not N-TIDIGITS18, or damaged: {exc}") from exc
    return NTIDigits(files[0], tuple(samples), left_out[_OH], tuple(findings))


def _list_part(
    file: h5py.File, part: str, left_out: Counter[str]
) -> tuple[list[SpokenDigit], list[Finding]]:
    groups = [f"{part}_labels", f"{part}_addresses", f"{part}_timestamps"]
    missing = [group for group in groups if group not in file]
    if missing:
        raise KeyError(f"it has no {' and no '.join(missing)}")
    samples, findings = [], []
    for label in file[groups[0]]:
        name = label.decode()
        spoken = name.rpartition("-")[2]
        if len(spoken) != 1:  # a sequence of digits
            continue
        if spoken == _OH:
            left_out[_OH] += 1
            continue
        location = f"{FILE}, {part}, {name}"
        if spoken not in DIGITS:
            message = f"{spoken}: must be one of {', '.join((*DIGITS, _OH))}"
            findings.append(Finding("unknown class", location, message))
            continue
        absent = [group for group in groups[1:] if name not in file[group]]
        if absent:
            message = f"there is no {' and no '.join(f'{group}/{name}' for group in absent)}"
            findings.append(Finding("missing file", location, message))
            continue
        samples.append(SpokenDigit(part, name, DIGITS[spoken]))
    return samples, findings
