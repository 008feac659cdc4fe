"""Clips are found by class and name; every wrong name is reported, and what would be accepted."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from model.training.folder.clip_source import list_clips
from model.training.task import DataError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_a_folder_is_a_class_and_one_in_it_a_group(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.mp4", "cat/anna/b.MOV", "dog/anna/c.webm", ".hidden/x.mp4", "cat/.DS")
    listing = list_clips(tmp_path)
    assert [(x.name, x.label) for x in listing.clips] == [
        ("cat/a.mp4", "cat"), ("cat/anna/b.MOV", "cat"), ("dog/anna/c.webm", "dog"),
    ]  # fmt: skip
    alone, anna, same = (clip.group for clip in listing.clips)
    assert anna == same == "anna"
    assert alone != anna
    assert (listing.labels, listing.findings) == (("cat", "dog"), ())


def test_files_of_one_name_are_a_clip(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.wav", "cat/a.jpg", "dog/b.mp4", "dog/b.flac", "dog/c.png", "dog/d.ogg")
    clips = {clip.name: clip for clip in list_clips(tmp_path).clips}
    assert list(clips) == ["cat/a.jpg + cat/a.wav", "dog/b.flac + dog/b.mp4", "dog/c.png",
                           "dog/d.ogg"]  # fmt: skip
    pair = clips["cat/a.jpg + cat/a.wav"]
    assert (pair.sound_file, pair.picture_file) == (tmp_path / "cat/a.wav", tmp_path / "cat/a.jpg")
    dubbed = clips["dog/b.flac + dog/b.mp4"]
    assert (dubbed.sound_file, dubbed.picture_file) == (
        tmp_path / "dog/b.flac", tmp_path / "dog/b.mp4",
    )  # fmt: skip
    assert clips["dog/c.png"].sound_file is None
    assert clips["dog/d.ogg"].picture_file is None


def test_what_telephones_and_systems_add(tmp_path: Path) -> None:
    """A macOS archive has a folder of its own, and decomposed characters in names."""
    touch(tmp_path, "__MACOSX/cat/._a.mp4", "cat/.DS_Store", "cat/a.mp4", "cat/IMG_1.HEIC")
    touch(tmp_path, unicodedata.normalize("NFD", "B\u00e4r/b.mp4"))
    listing = list_clips(tmp_path)
    assert listing.labels == ("B\u00e4r", "cat")
    (finding,) = listing.findings
    assert finding.where == "cat/IMG_1.HEIC"
    assert "convert them to JPEG" in finding.message


def test_wrong_names_are_all_reported(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.mp4", "cat/notes.doc", "loose.mp4", "dog/a.jpg", "dog/a.png")
    (tmp_path / "bird").mkdir()
    listing = list_clips(tmp_path)
    by_file = {finding.where: (finding.kind, finding.message) for finding in listing.findings}
    assert by_file["cat/notes.doc"][0] == "wrong name"
    assert "accepted are movie: mp4, mov," in by_file["cat/notes.doc"][1]
    assert by_file["loose.mp4"][1] == f"lies in no class; move it to {tmp_path / 'CLASS/loose.mp4'}"
    assert "have the same name" in by_file["dog/a.jpg + dog/a.png"][1]
    assert by_file["bird"][0] == "empty"
    assert [clip.name for clip in listing.clips] == ["cat/a.mp4"]


def test_links_are_followed_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "data/cat/a.mp4", "anna/b.mp4", "anna/day/c.mp4")
    for link, target in (
        ("cat/anna", tmp_path / "anna"),  # a group
        ("cat/again", tmp_path / "anna"),
        ("cat/everything", tmp_path / "data"),
        ("dog", tmp_path / "anna" / "day"),  # a class
    ):
        (tmp_path / "data" / link).symlink_to(target)
    (tmp_path / "anna" / "back").symlink_to(tmp_path / "data" / "cat")
    listing = list_clips(tmp_path / "data")
    assert [clip.name for clip in listing.clips] == [
        "cat/a.mp4", "cat/again/b.mp4", "cat/again/day/c.mp4", "dog/c.mp4",
    ]  # fmt: skip
    assert listing.findings == ()


def test_files_that_cannot_be_read_are_reported_like_any_other(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.mp4")
    (tmp_path / "cat" / "gone.mp4").symlink_to("nowhere")
    os.mkfifo(tmp_path / "cat" / "pipe.mp4")
    (tmp_path / "cat" / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    listing = list_clips(tmp_path)
    assert [clip.name for clip in listing.clips] == ["cat/a.mp4"]
    assert {(x.kind, x.where, x.message) for x in listing.findings} == {
        ("unreadable", "cat/gone.mp4", "No such file or directory"),
        ("unreadable", "cat/pipe.mp4", "is not a regular file"),
        ("wrong name", "cat/caf\\xe9.mp4", "the name is not in UTF-8; rename the file or folder"),
    }
    folder = touch(tmp_path / os.fsdecode(b"\xe9"), "cat/a.mp4")
    with pytest.raises(DataError, match=r"\\xe9: the path is not in UTF-8; rename the folder"):
        list_clips(folder)


@pytest.mark.parametrize("name", ["nowhere", "empty", "nowhere.csv"])
def test_data_that_is_not_there_is_named_with_what_it_must_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as raised:
        list_clips(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)
    if name != "nowhere.csv":
        assert "it must have a folder for each class" in str(raised.value)


def table(folder: Path, text: str) -> Path:
    (folder / "clips.csv").write_text(text)
    return folder / "clips.csv"


def test_a_table_names_classes_parts_groups_and_spans(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.wav", "b.png", "sub/c.mp4")
    listing = list_clips(
        table(
            tmp_path,
            "file,label,split,group,start,end,remark\n"
            "a.mp4,cat,test,anna,0.5,1.5,x\n"
            "a.mp4,dog,,anna,1.5,2,\n"
            "b.wav,cat,,,,,\n"
            "b.png,cat,,,,,\n"
            "sub/c.mp4,dog,train,,,,\n",
        )
    )
    assert listing.findings == ()
    clips = {clip.name: clip for clip in listing.clips}
    first, second = clips["a.mp4 0.5-1.5 s"], clips["a.mp4 1.5-2 s"]
    assert (first.span, first.split, first.group) == ((0.5, 1.5), "test", "anna")
    assert (second.label, second.split, second.group) == ("dog", "", "anna")
    assert clips["b.wav + b.png"].picture_file == tmp_path / "b.png"
    assert clips["sub/c.mp4"].split == "train"


def test_a_clip_in_two_rows_of_a_table_is_reported(tmp_path: Path) -> None:
    """It could be in two classes, or in the clips to train on and in those to test on."""
    touch(tmp_path, "a.mp4", "b.mp4")
    rows = ["a.mp4,cat,,,", "a.mp4,dog,,,", "./a.mp4,cat,test,,", "b.mp4,cat,,1,2", "b.mp4,cat,,,",
            "b.mp4,dog,,1.0,2", "b.mp4,dog,,2,3"]  # fmt: skip
    listing = list_clips(table(tmp_path, "file,label,split,start,end\n" + "\n".join(rows)))
    assert [clip.name for clip in listing.clips] == [
        "a.mp4", "b.mp4", "b.mp4 1-2 s", "b.mp4 2-3 s",
    ]  # fmt: skip
    assert [(x.kind, x.where, x.message) for x in listing.findings] == [
        ("duplicate", "line 3: a.mp4", "line 2 has the same clip; keep one of them"),
        ("duplicate", "line 4: ./a.mp4", "line 2 has the same clip; keep one of them"),
        ("duplicate", "line 7: b.mp4", "line 5 has the same clip; keep one of them"),
    ]


def test_files_of_a_table_may_lie_anywhere(tmp_path: Path) -> None:
    touch(tmp_path, "media/a.wav", "media/a.jpg", "tables/b.mp4")
    media = tmp_path / "media"
    rows = f"{media}/a.wav,cat\n{media}/a.jpg,cat\n../media/a.wav,dog\n../media/a.jpg,dog\n"
    listing = list_clips(table(tmp_path / "tables", f"file,label\n{rows}"))
    assert listing.findings == ()
    assert {clip.name: clip.label for clip in listing.clips} == {
        f"{media}/a.wav + {media}/a.jpg": "cat", "../media/a.wav + ../media/a.jpg": "dog",
    }  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_may_be_as_spreadsheets_write_it(
    tmp_path: Path, encoding: str, separator: str
) -> None:
    touch(tmp_path, "sub/a b.mp4", unicodedata.normalize("NFD", "\u00e4.mp4"))
    rows = [
        ["File", " Label", "Start", "End"],
        ["sub\\a b.mp4", "cat", '"0,5"', '"1,5"'],
        ["\u00e4.mp4", unicodedata.normalize("NFD", "B\u00e4r"), "", ""],
    ]
    text = "\r\n".join(separator.join(row) for row in rows) + "\r\n\r\n"
    (tmp_path / "clips.csv").write_bytes(text.encode(encoding))
    listing = list_clips(tmp_path / "clips.csv")
    assert listing.findings == ()
    clips = {clip.label: clip for clip in listing.clips}
    assert clips.keys() == {"cat", "B\u00e4r"}
    assert clips["cat"].span == (0.5, 1.5)
    assert all(path.is_file() for clip in listing.clips for _, path in clip.files)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",cat,,,,", "file and label must not be empty"),
        ("a.mp4,,,,,", "file and label must not be empty"),
        ("no.mp4,cat,,,,", "no such file in "),
        ("a.mp4,cat,valid,,,", "split 'valid': must be one of train, development, test, or empty"),
        ("a.mp4,cat,,,1,", "both must be there"),
        ("a.mp4,cat,,,2,1", "seconds with 0 <= start < end"),
        ("a.mp4,cat,,,one,2", "seconds with 0 <= start < end"),
        ("a.mp4,cat,,,0,inf", "seconds with 0 <= start < end"),
        ("a.txt,cat,,,,", "unknown file name extension; accepted are "),
    ],
)
def test_a_wrong_row_of_a_table_is_named_by_its_line(
    tmp_path: Path, row: str, message: str
) -> None:
    touch(tmp_path, "a.mp4", "a.txt")
    listing = list_clips(table(tmp_path, f"file,label,split,group,start,end\n{row}\n"))
    assert listing.clips == ()
    (finding,) = listing.findings
    assert message in finding.message
    assert "line 2: " in finding.where or finding.where == "a.txt"


def test_a_table_without_a_column_is_refused_by_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column label; columns are file, label .* class"):
        list_clips(table(tmp_path, "file,class\na.mp4,cat\n"))
    (tmp_path / "clips.csv").write_bytes(b"file,label\n\xff\xfe,cat\n")
    with pytest.raises(DataError, match="not in UTF-8; in Excel, save it as CSV UTF-8"):
        list_clips(tmp_path / "clips.csv")
