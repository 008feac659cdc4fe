"""The data folder of drones is read as it was written, and split by place and recording."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.training.drones.folder import (
    FOLDS,
    KINDS,
    RATE,
    Aircraft,
    leave_out,
    load,
    load_movies,
)
from model.training.task import DataError
from tests.model.training.drones.data_folder import SITES, VIEWS, draw_view

REAL = Path(__file__).parents[4] / ".." / "shared" / "data" / "drones"


def test_views_and_recordings_are_read_by_clip_of_origin(
    parts: tuple[Aircraft, Aircraft],
) -> None:
    training, test = parts
    by_kind = {kind: [c for c in training.clips if c[0].kind == kind] for kind in KINDS}
    assert {kind: len(clips) for kind, clips in by_kind.items()} == {
        "drone": 4, "helicopter": 4, "airplane": 4, "bird": 4, "background": 16,
    }  # fmt: skip
    views = by_kind["drone"][1]
    assert len(views) == VIEWS
    np.testing.assert_array_equal(views[2].picture, draw_view("drone", 1, 38))
    assert views[2].box == (28, 22, 20, 20)
    assert all(view.box is None for clip in by_kind["background"] for view in clip)
    # Its two pieces follow each other.
    assert {len(each.samples) for each in training.recordings} == {4 * RATE}
    assert len(training.recordings) == 12
    assert len(test.recordings) == 3
    assert {clip[0].site for clip in test.clips} == {"d4", "h4", "a4", "b4"}


def test_folds_share_no_place_and_no_recording(parts: tuple[Aircraft, Aircraft]) -> None:
    training = parts[0]
    places: list[str] = []
    for fold in range(1, FOLDS + 1):
        others, left_out = leave_out(training, fold)
        sites = {clip[0].site for clip in left_out.clips}
        groups = {each.group for each in left_out.recordings}
        assert not sites & {clip[0].site for clip in others.clips}
        assert not groups & {each.group for each in others.recordings}
        assert len(others.clips) + len(left_out.clips) == len(training.clips)
        assert {KINDS[clip[0].kind] for clip in left_out.clips} == {0, 1, 2}
        places += [*sites, *groups]
    assert len(places) == len(set(places)) == 4 * (SITES - 1) + 12


def test_a_fold_without_a_class_is_refused(parts: tuple[Aircraft, Aircraft]) -> None:
    with pytest.raises(DataError, match="no picture of drone in fold 2"):
        leave_out(parts[1], 2)


def test_recordings_of_the_same_seconds_stay_together() -> None:
    if not REAL.is_dir():
        pytest.skip("needs ../shared/data/drones")
    training, _ = load(REAL)
    for fold in range(1, FOLDS + 1):
        _, left_out = leave_out(training, fold)
        groups = [each.group for each in left_out.recordings]
        assert groups.count("DRONE_014.wav") in (0, 4)
        assert groups.count("DRONE_009.wav") in (0, 3)


def test_movies_are_read_with_their_kinds(drones_folder: Path) -> None:
    (movie,) = load_movies(drones_folder)
    assert (movie.kind, movie.name) == ("drone", "drone_00.mp4")
    assert movie.data == (drones_folder / "clips" / "drone_00.mp4").read_bytes()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("class", "balloon", r"line 2: class 'balloon' is not one of drone, helicopter"),
        ("split", "val", r"line 2: split 'val' is not train or test"),
        ("clip", "", r"line 2: has no clip"),
        ("file", "../secret.png", r"line 2: file '../secret.png' is not in the folder"),
        ("box_w", "wide", r"line 2: box_x, box_y, box_w and box_h are not all numbers"),
        ("file", "crops/none.png", r"crops/none.png: cannot be read: No such file"),
        ("file", "labels.csv", r"labels.csv: is not a picture"),
    ],
)
def test_faults_are_named(
    drones_folder: Path, tmp_path: Path, column: str, value: str, message: str
) -> None:
    copy = shutil.copytree(drones_folder, tmp_path / "copy")
    with (copy / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0][column] = value
    with (copy / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(DataError, match=message):
        load(copy)


def test_a_missing_column_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels.csv: not found"):
        load(tmp_path)
    (tmp_path / "labels.csv").write_text("file,class\n")
    with pytest.raises(DataError, match="has no column kind, clip, split, site, box_x"):
        load(tmp_path)


def test_a_class_without_recordings_is_named(drones_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(drones_folder, tmp_path / "copy")
    lines = (copy / "labels.csv").read_text().splitlines()
    remaining = [line for line in lines if not line.startswith("sound/helicopter")]
    (copy / "labels.csv").write_text("\n".join(remaining))
    with pytest.raises(DataError, match="no recording of helicopter to train on"):
        load(copy)
