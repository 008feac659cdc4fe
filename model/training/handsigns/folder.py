"""The data folder of handsigns: photographs of hands and spoken digits, some of them held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.arrays import Float32Array, UInt8Array
from model.training.array_digest import array_digest
from model.training.data_folder import raise_faults, read_rows
from model.training.handsigns.cutout import Cutout, cut_out
from model.training.speech.folder import find_speech, read_words, takes_by_digit
from model.training.speech.held_out import HELD_OUT_SPEAKER
from model.training.task import DataError

#: Columns that labels.csv must have; others are ignored.
COLUMNS = ("file", "digit", "signer", "split")
#: Values of the column `split`: to train on, and held out.
TRAINING, HELD_OUT = "train", "val"
#: Sides of a photograph in pixels. Larger ones are scaled down, smaller ones refused.
SIDES = (48, 200)
#: Not trained on: s078, who is held out, may be the same person (README of signdigits).
DOUBTFUL_SIGNERS = frozenset({"s079"})
#: Fewest signers and takes that are held out: one for each of the two `halves`.
_FEWEST_HELD_OUT = 2


@dataclass(frozen=True)
class Hand:
    """A photograph, uint8 RGB [h, w, 3], the hand in it, and who shows it."""

    photograph: UInt8Array
    cutout: Cutout
    signer: str


@dataclass(frozen=True)
class ShownDigits:
    """Hands and words (mono at RATE), each by its digit."""

    hands: tuple[tuple[Hand, ...], ...]
    words: tuple[tuple[Float32Array, ...], ...]

    @property
    def sha256(self) -> str:
        """Digest of all photographs and words, in their order."""
        arrays: list[NDArray[Any]] = []
        for hands, words in zip(self.hands, self.words, strict=True):
            arrays += [*(hand.photograph for hand in hands), *words]
        return array_digest(arrays)


def load(folder: Path) -> tuple[ShownDigits, ShownDigits]:
    """Load the digits to train on, and those held out: signers whose split is `val`, and
    HELD_OUT_SPEAKER.

    `folder` holds `signdigits/` (labels.csv and the files that it names), and `avdigits/speech/`
    or `speech/` (DIGIT_SPEAKER_TAKE.wav). Raises DataError, naming the files, where one is missing,
    damaged or wrongly labelled, where it shows no hand before a light wall, or where a digit has
    too few photographs or recordings.
    """
    parts = _hands(folder / "signdigits")
    spoken = read_words(find_speech(folder))
    training = ShownDigits(parts[TRAINING], takes_by_digit(spoken, held_out=False))
    held_out = ShownDigits(parts[HELD_OUT], takes_by_digit(spoken, held_out=True))
    raise_faults(folder, _missing(training, held_out))
    return training, held_out


def halves(digits: ShownDigits) -> tuple[ShownDigits, ShownDigits]:
    """Split into every other signer and take, and the rest."""
    signers = sorted({hand.signer for hands in digits.hands for hand in hands})
    first, second = (
        ShownDigits(
            tuple(tuple(h for h in of if h.signer in signers[start::2]) for of in digits.hands),
            tuple(of[start::2] for of in digits.words),
        )
        for start in (0, 1)
    )
    return first, second


def _hands(folder: Path) -> dict[str, tuple[tuple[Hand, ...], ...]]:
    """Read the hands by split and digit."""
    rows = read_rows(folder / "labels.csv", COLUMNS)
    faults: list[str] = []
    hands: dict[str, list[list[Hand]]] = {
        split: [[] for _ in range(10)] for split in (TRAINING, HELD_OUT)
    }
    splits: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        if fault := _row_fault(row, splits):
            faults.append(f"labels.csv, line {number}: {fault}")
            continue
        if row["signer"] in DOUBTFUL_SIGNERS:
            continue
        try:
            photograph = _photograph(folder / row["file"])
            hand = Hand(photograph, cut_out(photograph), row["signer"])
        except DataError as exc:
            faults.append(f"{row['file']}: {exc}")
            continue
        hands[row["split"]][int(row["digit"])].append(hand)
    raise_faults(folder, faults)
    return {split: tuple(tuple(of) for of in by_digit) for split, by_digit in hands.items()}


def _row_fault(row: Mapping[str, str], splits: dict[str, str]) -> str:
    """Return what is wrong with a row, or the empty string. `splits` by signer is filled."""
    digit, signer, split = row["digit"], row["signer"], row["split"]
    if digit not in tuple("0123456789"):
        return f"digit {digit!r} is not 0 to 9"
    if split not in (TRAINING, HELD_OUT):
        return f"split {split!r} is not {TRAINING} or {HELD_OUT}"
    if not signer:
        return "has no signer"
    if Path(row["file"]).is_absolute() or ".." in Path(row["file"]).parts:
        return f"file {row['file']!r} is not in the folder"
    if splits.setdefault(signer, split) != split:
        return f"signer {signer} is both {TRAINING} and {HELD_OUT}"
    return ""


def _photograph(file: Path) -> UInt8Array:
    """Read a photograph as uint8 RGB [h, w, 3], at most SIDES[1] pixels wide and high."""
    try:
        encoded = np.frombuffer(file.read_bytes(), np.uint8)
    except OSError as exc:
        raise DataError(f"cannot be read: {exc.strerror}") from exc
    picture: Any = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if picture is None:
        raise DataError("is not a picture that can be read")
    height, width = picture.shape[:2]
    if min(height, width) < SIDES[0]:
        raise DataError(f"{width} x {height} pixels; at least {SIDES[0]} x {SIDES[0]} are needed")
    scale = SIDES[1] / max(height, width)
    if scale < 1:
        size = (round(width * scale), round(height * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(picture[:, :, ::-1])


def _missing(training: ShownDigits, held_out: ShownDigits) -> Iterator[str]:
    """Yield a message for each digit that has too few hands or takes."""
    for digit in range(10):
        if not training.hands[digit]:
            yield f"signdigits: no photograph of digit {digit} whose split is {TRAINING}"
        if not all(_signers(half.hands[digit]) for half in halves(held_out)):
            yield (
                f"signdigits: too few signers of digit {digit} whose split is {HELD_OUT}; of every "
                f"two neighbours in the order of their names, each needs a photograph"
            )
        if not training.words[digit]:
            yield f"speech/{digit}_SPEAKER_*.wav: none of a speaker other than {HELD_OUT_SPEAKER}"
        if (takes := len(held_out.words[digit])) < _FEWEST_HELD_OUT:
            yield (
                f"speech/{digit}_{HELD_OUT_SPEAKER}_*.wav: {takes or 'none'} there; "
                f"{_FEWEST_HELD_OUT} are needed"
            )


def _signers(hands: Sequence[Hand]) -> set[str]:
    return {hand.signer for hand in hands}
