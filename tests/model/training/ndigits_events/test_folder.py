"""The data folder is read and checked: recordings and speakers apart, faults by their names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model.training.ndigits_events import folder as data_folder
from model.training.ndigits_events.folder import Parts
from model.training.task import DataError


def test_no_part_has_a_recording_or_a_word_of_another(parts: Parts) -> None:
    for digit in range(10):
        films = [{film.name for film in part.films[digit]} for part in vars(parts).values()]
        words = [{word.tobytes() for word in part.words[digit]} for part in vars(parts).values()]
        assert [len(each) for each in films] == [5, 1, 2]
        assert [len(each) for each in words] == [8, 2, 2]  # two speakers; half of the third's
        for sets in (films, words):
            assert len(set.union(*sets)) == sum(len(each) for each in sets)
    assert len({part.sha256 for part in vars(parts).values()}) == 3


@pytest.fixture
def folder(digits_folder: Path, tmp_path: Path) -> Path:
    """A copy of the data, to be changed."""
    return Path(shutil.copytree(digits_folder, tmp_path / "data"))


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as raised:
        data_folder.load(folder)
    return str(raised.value)


def test_faults_are_named_with_their_files(folder: Path) -> None:
    (folder / "nmnist/events/00.bs2").unlink()
    (folder / "nmnist/events/13.bs2").write_bytes(b"123")
    (folder / "nmnist/events/22.bs2").write_bytes(b"")
    with (folder / "nmnist/labels.csv").open("a") as table:
        table.write("events/71.bs2,7,validation\nevents/71.bs2,ten,train\n")
    message = refusal(folder)
    assert "events/00.bs2: cannot be read: No such file" in message
    assert "events/13.bs2: it is in no format of events" in message
    assert "events/22.bs2: has no events" in message
    assert "labels.csv line 82: split is train or test" in message
    assert "labels.csv line 83: digit is 0 to 9, not 'ten'" in message


def test_missing_data_are_named(folder: Path) -> None:
    table = folder / "nmnist/labels.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join(row for row in rows if ",4,test" not in row))
    assert "no recordings of digit 4 for the part test" in refusal(folder)
    table.write_text("file,digit\n")
    assert "has no column split" in refusal(folder)
    shutil.rmtree(folder / "avdigits")
    table.write_text("\n".join(rows))
    assert "needs avdigits/speech or speech" in refusal(folder)
