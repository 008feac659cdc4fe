"""The data folder is read and checked: signers and speakers apart, faults by their names."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from model.training.handsigns import folder as data_folder
from model.training.handsigns.folder import ShownDigits, halves
from model.training.task import DataError
from tests.model.training.handsigns.data_folder import SIGNERS, draw_photograph

pytestmark = pytest.mark.slow


def signers(digits: ShownDigits) -> set[str]:
    return {hand.signer for hands in digits.hands for hand in hands}


def test_training_never_sees_what_is_held_out(parts: tuple[ShownDigits, ShownDigits]) -> None:
    training, held_out = parts
    assert signers(training) == set(SIGNERS["train"])
    assert signers(held_out) == set(SIGNERS["val"])
    for digit in range(10):
        assert len(training.hands[digit]) == 3
        assert len(training.words[digit]) == 8
        words = {word.tobytes() for word in training.words[digit]}
        assert not words & {word.tobytes() for word in held_out.words[digit]}
    development, test = halves(held_out)
    assert signers(development) | signers(test) == set(SIGNERS["val"])
    assert not signers(development) & signers(test)
    assert len(development.words[0]) == len(test.words[0]) == 2


def test_the_digest_is_that_of_photographs_and_words(
    parts: tuple[ShownDigits, ShownDigits],
) -> None:
    training, held_out = parts
    assert len({training.sha256, held_out.sha256, halves(held_out)[0].sha256}) == 3
    assert training.sha256 == ShownDigits(training.hands, training.words).sha256


@pytest.fixture
def folder(handsigns_folder: Path, tmp_path: Path) -> Path:
    """A copy of the data, to be changed."""
    return Path(shutil.copytree(handsigns_folder, tmp_path / "data"))


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as raised:
        data_folder.load(folder)
    return str(raised.value)


def test_recordings_may_lie_beside_the_photographs(
    folder: Path, parts: tuple[ShownDigits, ShownDigits]
) -> None:
    (folder / "avdigits" / "speech").rename(folder / "speech")
    assert data_folder.load(folder)[0].sha256 == parts[0].sha256
    (folder / "speech").rename(folder / "voices")
    assert "needs avdigits/speech or speech" in refusal(folder)


def test_a_signer_who_may_be_one_held_out_is_not_trained_on(folder: Path) -> None:
    labels = folder / "signdigits" / "labels.csv"
    doubtful = next(iter(data_folder.DOUBTFUL_SIGNERS))
    labels.write_text(labels.read_text().replace(",s002,", f",{doubtful},"))
    assert signers(data_folder.load(folder)[0]) == {"s000", "s001"}


ROW = "images/3_s000_0.png,3,s000,0,train"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("images/3_s000_0.png,x,s000,0,train", "labels.csv, line 5: digit 'x' is not 0 to 9"),
        ("images/3_s000_0.png,10,s000,0,train", "line 5: digit '10' is not 0 to 9"),
        ("images/3_s000_0.png,3,s000,0,test", "line 5: split 'test' is not train or val"),
        ("images/3_s000_0.png,3,,0,train", "line 5: has no signer"),
        ("images/3_s000_0.png,3,s000,0,val", "line 5: signer s000 is both train and val"),
        ("../images/3.png,3,s000,0,train", "line 5: file '../images/3.png' is not in the folder"),
        ("/etc/passwd,3,s000,0,train", "line 5: file '/etc/passwd' is not in the folder"),
        ("images/none.png,3,s000,0,train", "images/none.png: cannot be read: No such file"),
    ],
)
def test_a_wrong_row_is_named(folder: Path, row: str, expected: str) -> None:
    labels = folder / "signdigits" / "labels.csv"
    text = labels.read_text()
    assert ROW in text
    labels.write_text(text.replace(ROW, row))
    assert expected in refusal(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "labels.csv: not found"),
        (b"file,digit\n", "labels.csv: has no column signer, split"),
        (b"", "labels.csv: has no column file"),
        (b"\xff\xfe", "labels.csv: cannot be read"),
    ],
)
def test_labels_that_are_none_are_refused(
    folder: Path, content: bytes | None, expected: str
) -> None:
    labels = folder / "signdigits" / "labels.csv"
    labels.unlink()
    if content is not None:
        labels.write_bytes(content)
    assert expected in refusal(folder)


def test_all_faults_of_photographs_are_named_together(folder: Path) -> None:
    images = folder / "signdigits" / "images"
    (images / "1_s000_0.png").write_bytes(b"damaged")
    (images / "2_s000_0.png").write_bytes(b"")
    cv2.imwrite(str(images / "3_s000_0.png"), np.full((100, 100, 3), 220, np.uint8))
    cv2.imwrite(str(images / "4_s000_0.png"), np.full((20, 100, 3), 220, np.uint8))
    message = refusal(folder)
    for expected in (
        "1_s000_0.png: is not a picture that can be read",
        "2_s000_0.png: is not a picture that can be read",
        "3_s000_0.png: no hand before a light wall",
        "4_s000_0.png: 100 x 20 pixels; at least 48 x 48 are needed",
    ):
        assert expected in message


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("signdigits 3 train", "signdigits: no photograph of digit 3 whose split is train"),
        ("signdigits 4 val", "signdigits: too few signers of digit 4 whose split is val"),
        ("speech 5_george", "speech/5_george_*.wav: none there; 2 are needed"),
        ("speech 6_[jl]", "speech/6_SPEAKER_*.wav: none of a speaker other than george"),
    ],
)
def test_a_digit_with_too_little_data_is_named(folder: Path, missing: str, expected: str) -> None:
    part, *numbers = missing.split()
    if part == "speech":
        for file in (folder / "avdigits" / "speech").glob(f"{numbers[0]}*"):
            file.unlink()
    else:
        labels = folder / "signdigits" / "labels.csv"
        lines = labels.read_text().splitlines()
        remaining = [x for x in lines if not (f",{numbers[0]},s" in x and x.endswith(numbers[1]))]
        assert len(remaining) < len(lines)
        labels.write_text("\n".join(remaining) + "\n")
    assert expected in refusal(folder)


def test_a_large_photograph_is_scaled_down(folder: Path) -> None:
    file = folder / "signdigits" / "images" / "7_s000_0.png"
    large = cv2.resize(draw_photograph(7), (600, 450))
    cv2.imwrite(str(file), large[:, :, ::-1])
    hand = data_folder.load(folder)[0].hands[7][0]
    assert hand.photograph.shape == (150, 200, 3)
    assert hand.cutout.cover.shape == (150, 200)
