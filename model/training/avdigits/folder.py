"""The data folder of avdigits: handwritten and spoken digits, some of them held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.arrays import Float32Array, UInt8Array
from model.training.array_digest import array_digest
from model.training.avdigits.held_out import HELD_OUT_PICTURES
from model.training.avdigits.scene import INK
from model.training.data_folder import raise_faults
from model.training.speech.folder import read_words, takes_by_digit
from model.training.speech.held_out import HELD_OUT_SPEAKER
from model.training.task import DataError

#: Fewest pictures, and takes, of each digit that are held out: one for each of the two `halves`.
_FEWEST_HELD_OUT = 2


@dataclass(frozen=True)
class Digits:
    """Pictures [n, 28, 28] (ink bright) and words (mono at RATE), each by its digit."""

    pictures: tuple[UInt8Array, ...]
    words: tuple[tuple[Float32Array, ...], ...]

    @property
    def sha256(self) -> str:
        """Digest of all pictures and words, in their order."""
        arrays: list[NDArray[Any]] = []
        for pictures, words in zip(self.pictures, self.words, strict=True):
            arrays += [pictures, *words]
        return array_digest(arrays)


def load(folder: Path) -> tuple[Digits, Digits]:
    """Load the digits to train on, and those held out (`HELD_OUT_SPEAKER`, `HELD_OUT_PICTURES`).

    Raises DataError, naming the files, where one is missing, damaged or wrongly named, or where
    a digit has too few pictures or recordings.
    """
    pictures = _pictures(folder / "handwriting.npz")
    speech = folder / "speech"
    spoken = read_words(speech)
    if HELD_OUT_SPEAKER not in spoken or len(spoken) < 2:
        raise DataError(
            f"{speech}: needs recordings of {HELD_OUT_SPEAKER} and of at least one other speaker"
        )
    train = takes_by_digit(spoken, held_out=False)
    counts = [len(of) - round(HELD_OUT_PICTURES * len(of)) for of in pictures]
    digits = Digits(tuple(of[:n] for of, n in zip(pictures, counts, strict=True)), train)
    held_out = Digits(
        tuple(of[n:] for of, n in zip(pictures, counts, strict=True)),
        takes_by_digit(spoken, held_out=True),
    )
    raise_faults(folder, _missing(digits, held_out))
    return digits, held_out


def halves(digits: Digits) -> tuple[Digits, Digits]:
    """Split into every other picture and take, and the rest."""
    first, second = (
        Digits(
            tuple(of[start::2] for of in digits.pictures),
            tuple(of[start::2] for of in digits.words),
        )
        for start in (0, 1)
    )
    return first, second


def _pictures(file: Path) -> list[UInt8Array]:
    """Read pictures [n, 28, 28] by digit."""
    try:
        # np.load would leave a damaged file open.
        with file.open("rb") as raw, np.load(raw) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except FileNotFoundError:
        raise DataError(
            f"{file}: not found; see the README for where the data comes from"
        ) from None
    except OSError as exc:
        raise DataError(f"{file}: cannot be read: {exc.strerror or exc}") from exc
    except Exception as exc:  # numpy and zipfile raise many kinds of errors for damaged bytes
        raise DataError(f"{file}: cannot be read: {exc}") from exc
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
        raise DataError(f"{file}: images are {_kind(images)} and must be uint8 [n, 28, 28]")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise DataError(
            f"{file}: labels are {_kind(labels)}, must be integers [{len(images)}], one per image"
        )
    wrong = np.flatnonzero((labels < 0) | (labels > 9))
    if wrong.size:
        raise DataError(f"{file}: label {labels[wrong[0]]} of image {wrong[0]} is not 0 to 9")
    blank = np.flatnonzero(images.max((1, 2), initial=0) <= INK)
    if blank.size:
        raise DataError(f"{file}: image {blank[0]} is blank: nothing in it is brighter than {INK}")
    return [images[labels == digit] for digit in range(10)]


def _kind(values: NDArray[np.generic]) -> str:
    return f"{values.dtype} {list(values.shape)}"


def _missing(digits: Digits, held_out: Digits) -> Iterator[str]:
    """Yield a message for each digit that has too few pictures or takes."""
    for digit in range(10):
        trained, reserved = len(digits.pictures[digit]), len(held_out.pictures[digit])
        if not trained or reserved < _FEWEST_HELD_OUT:
            least = next(n for n in count() if round(HELD_OUT_PICTURES * n) >= _FEWEST_HELD_OUT)
            images = trained + reserved
            yield f"handwriting.npz: {images} images of digit {digit}; {least} are needed"
        if not digits.words[digit]:
            yield f"speech/{digit}_SPEAKER_*.wav: none of a speaker other than {HELD_OUT_SPEAKER}"
        if (takes := len(held_out.words[digit])) < _FEWEST_HELD_OUT:
            yield (
                f"speech/{digit}_{HELD_OUT_SPEAKER}_*.wav: {takes or 'none'} there; "
                f"{_FEWEST_HELD_OUT} are needed"
            )
