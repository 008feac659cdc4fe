"""The data folder of ndigits-events: recordings of an event camera and spoken digits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from model.arrays import Float32Array
from model.media.events.reader import read_camera_events
from model.media.events.types import CameraEvents
from model.media.types import MediaError
from model.training.data_folder import raise_faults, read_rows
from model.training.speech.folder import find_speech, read_words, takes_by_digit

#: Columns that labels.csv must have; others are ignored.
COLUMNS = ("file", "digit", "split")
#: Values of the column `split`: to train on, and to test on.
TRAINING, TEST = "train", "test"
#: Share of the recordings of each digit of the split `train`, the last ones, that choose the epoch.
DEVELOPMENT = 0.1


@dataclass(frozen=True)
class FilmedDigit:
    """A file of events, as it is, and its name."""

    name: str
    data: bytes

    @cached_property
    def events(self) -> CameraEvents:
        """Its events."""
        return read_camera_events(self.data)


@dataclass(frozen=True)
class Digits:
    """Recordings of an event camera and words (mono at RATE), each by its digit."""

    films: tuple[tuple[FilmedDigit, ...], ...]
    words: tuple[tuple[Float32Array, ...], ...]

    @property
    def sha256(self) -> str:
        """Digest of all recordings and words, in their order."""
        digest = hashlib.sha256()
        for films, words in zip(self.films, self.words, strict=True):
            for content in [*(film.data for film in films), *(word.tobytes() for word in words)]:
                digest.update(f"{len(content)}".encode())
                digest.update(content)
        return digest.hexdigest()


@dataclass(frozen=True)
class Parts:
    """Digits to train on, to choose the epoch by, and to test on."""

    training: Digits
    development: Digits
    test: Digits


def load(folder: Path) -> Parts:
    """Load the digits; takes of HELD_OUT_SPEAKER choose the epoch or are test data, alternately.

    `folder` holds `nmnist/` (labels.csv and the files of events that it names), and
    `avdigits/speech/` or `speech/` (DIGIT_SPEAKER_TAKE.wav). Raises DataError, naming the files,
    where one is missing, damaged or wrongly labelled, or where a digit has too few of them.
    """
    films = _films(folder / "nmnist")
    spoken = read_words(find_speech(folder))
    spoken_train, held_out = (takes_by_digit(spoken, held_out=each) for each in (False, True))
    counts = [len(of) - round(DEVELOPMENT * len(of)) for of in films[TRAINING]]
    trained = zip(films[TRAINING], counts, strict=True)
    reserved = zip(films[TRAINING], counts, strict=True)
    parts = Parts(
        Digits(tuple(of[:n] for of, n in trained), spoken_train),
        Digits(tuple(of[n:] for of, n in reserved), tuple(of[::2] for of in held_out)),
        Digits(films[TEST], tuple(of[1::2] for of in held_out)),
    )
    raise_faults(folder, _missing(parts))
    return parts


def _films(folder: Path) -> dict[str, tuple[tuple[FilmedDigit, ...], ...]]:
    """Read the recordings by split and digit."""
    faults: list[str] = []
    films: dict[str, list[list[FilmedDigit]]] = {
        split: [[] for _ in range(10)] for split in (TRAINING, TEST)
    }
    for number, row in enumerate(read_rows(folder / "labels.csv", COLUMNS), start=2):
        if row["split"] not in films:
            faults.append(f"labels.csv line {number}: split is {TRAINING} or {TEST}")
        elif row["digit"] not in tuple("0123456789"):
            faults.append(f"labels.csv line {number}: digit is 0 to 9, not {row['digit']!r}")
        else:
            film, fault = _film(folder, row["file"])
            if fault:
                faults.append(f"{row['file']}: {fault}")
            films[row["split"]][int(row["digit"])].append(film)
    raise_faults(folder, faults)
    return {split: tuple(tuple(of) for of in digits) for split, digits in films.items()}


def _film(folder: Path, name: str) -> tuple[FilmedDigit, str]:
    """Read a recording; return what is wrong with it as well, or the empty string."""
    try:
        film = FilmedDigit(name, (folder / name).read_bytes())
        fault = "" if len(film.events.x) else "has no events"
    except OSError as exc:
        return FilmedDigit(name, b""), f"cannot be read: {exc.strerror}"
    except MediaError as exc:
        return film, exc.detail
    return film, fault


def _missing(parts: Parts) -> Iterator[str]:
    """Yield a message for each digit that a part has no recording or no word of."""
    for digit in range(10):
        for name, part in vars(parts).items():
            if not part.films[digit]:
                yield f"nmnist: no recordings of digit {digit} for the part {name}"
            if not part.words[digit]:
                yield f"speech: no takes of digit {digit} for the part {name}"
