"""A folder is checked as a whole, decoded once, and read exactly as it is served."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from model.media.reader import read_clip
from model.preprocess.prepare import prepare
from model.training.folder import cache as caching
from model.training.folder.clip_files import ClipFiles
from model.training.folder.findings import Finding
from model.training.folder.inspection import inspect
from model.training.folder.split_table import seen_digests
from model.training.folder.task import FolderTask
from model.training.mp4_encoder import Footage, encode
from model.training.options import OptionsError
from model.training.speech.recording import Recording
from model.training.task import BatchPlan, DataError
from tests.model.test_whole_file import full_disk
from tests.model.training.folder.clip_files import (
    RATE,
    movie,
    movies,
    picture,
    sound,
    stripes,
    tone,
)

BOTH = BatchPlan(("audio", "visual"), steps=2)
SMALL = FolderTask(picture_size=32, seconds=0.4)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return movies(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "clips"))


def test_every_mistake_of_a_folder_is_reported_at_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "cat" / "damaged.mp4").write_bytes(b"no movie at all")
    (data / "cat" / "empty.mp4").write_bytes(b"")
    shutil.copy(data / "cat" / "0.mp4", data / "dog" / "again.mp4")
    (data / "cat" / "notes.txt").write_text("to do")
    picture(data / "cat" / "mute.jpg", 0)
    sound(data / "cat" / "blind.wav", 0)
    picture(data / "dog" / "quiet.png", 1)
    soundfile.write(data / "dog" / "quiet.wav", np.zeros(4000), 8000)
    cv2.imwrite(str(data / "dog" / "grey.png"), np.full((48, 64, 3), 128, np.uint8))
    sound(data / "dog" / "grey.wav", 1)
    picture(data / "dog" / "brief.png", 1)
    sound(data / "dog" / "brief.wav", 1, seconds=0.05)
    task = SMALL.for_data(data)
    with pytest.raises(DataError) as raised:
        task.load(data).training_examples(0, tmp_path)
    report = str(raised.value)
    for expected in (
        "9 mistakes in 16 clips",
        "wrong name (1)\n    cat/notes.txt: unknown file name extension; accepted are movie: mp4, ",
        "unreadable (1)\n    cat/damaged.mp4: this file format is not supported",
        "empty (1)\n    cat/empty.mp4: the file is empty",
        "cat/blind.wav: there is no picture in it; add a picture of the same name, or train on "
        "one stream: --task audio",
        "cat/mute.jpg: there is no sound in it; add a sound file of the same name, or train on "
        "one stream: --task visual",
        "silent (1)\n    dog/quiet.png + dog/quiet.wav: the sound is silent",
        "one colour (1)\n    dog/grey.png + dog/grey.wav: the picture is blank",
        "too short (1)\n    dog/brief.png + dog/brief.wav: its sound lasts 0.050 s; 0.1 s are",
        "duplicate (1)\n    dog/again.mp4: has the same content as cat/0.mp4, which is of class "
        "cat: one of them is wrong",
        "leave them out with --skip-faulty",
    ):
        assert expected in report, report
    skipping = replace(task, skip_faulty=True)
    left = skipping.load(data)
    left.training_examples(0, tmp_path)
    assert {each.files.name for each in left.parts} == {
        f"{label}/{take}.mp4" for label in ("cat", "dog") for take in range(4)
    }
    left.record(tmp_path / "run")
    trained_on = seen_digests(tmp_path / "run")
    digests = {path.name: ClipFiles("", "", "", (("movie", path),)).digest()
               for path in data.rglob("*.mp4") if path.stat().st_size}  # fmt: skip
    assert digests["damaged.mp4"] in trained_on
    tested = {each.digest for each in left.parts if each.part == "test"}
    assert len(tested) == 2
    assert not tested & trained_on
    counts = Counter(each.part for each in left.parts)
    assert counts.total() == 8
    assert (
        f": {counts['train']} clips to train, {counts['development']} to choose the epoch, "
        in (skipping.card_notes()["split"])
    )
    printed = " ".join(capsys.readouterr().err.split())
    assert "nothing wrong with 8 clips: cat 4, dog 4; train 4, development 2, test 2" in printed


@pytest.mark.parametrize(
    ("sound_s", "frames", "expected"),
    [
        (0.5, 1, ["its pictures last 0.125 s; 0.2 s are needed; a photograph belongs in a .jpg"]),
        (0.5, 2, []),
        (0.03, 4, ["its sound lasts 0.03"]),
        (0.2, 4, []),
    ],
)
def test_pictures_and_sound_of_a_movie_are_measured_without_padding(
    tmp_path: Path, sound_s: float, frames: int, expected: list[str]
) -> None:
    """The codec pads a sound of 0.03 s to 0.26 s here."""
    path = movie(tmp_path / "a.mp4", 0, seconds=sound_s, count=frames)
    files, streams = ClipFiles("a.mp4", "cat", "", (("movie", path),)), frozenset(BOTH.streams)
    findings = list(inspect(files, files.decode(16, streams), streams))
    assert [finding.kind for finding in findings] == ["too short"] * len(expected)
    assert all(
        finding.message.startswith(message)
        for finding, message in zip(findings, expected, strict=True)
    )


def test_a_short_part_of_a_movie_is_too_short(tmp_path: Path) -> None:
    path, streams = movie(tmp_path / "a.mp4", 0), frozenset({"visual"})
    files = ClipFiles("a.mp4", "cat", "", (("movie", path),), span=(0.2, 0.3))
    (finding,) = inspect(files, files.decode(16, streams), streams)
    assert finding.message == (
        "its pictures last 0.100 s; 0.2 s are needed; start and end are seconds"
    )


def test_known_examples_are_of_all_clips_but_those_to_test_on(data: Path, tmp_path: Path) -> None:
    loaded = SMALL.for_data(data).load(data)
    known = [part.files for part in loaded.parts if part.part != "test"]
    tested = next(part.files for part in loaded.parts if part.part == "test")
    (data / tested.name).write_bytes(b"no movie")  # and is not read
    examples = loaded.known_examples(tmp_path)
    names = [examples.clip_name(index) for index in range(2 * len(known))]
    assert sorted(names) == sorted(2 * [clip.name for clip in known])
    first, again = names.index(known[0].name), len(known) + names[len(known) :].index(known[0].name)
    (one, label), (other, same) = (examples.example(index, BOTH) for index in (first, again))
    assert label == same == loaded.labels[known[0].label]
    assert all(not np.array_equal(one[stream], other[stream]) for stream in BOTH.streams)


def test_classes_that_differ_in_case_only_cause_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = movies(tmp_path / "data", classes=("Cat", "cat"), count=3)
    SMALL.for_data(data).load(data).training_examples(0, tmp_path / "runs")
    assert "warning: the classes Cat and cat differ in case only" in " ".join(
        capsys.readouterr().err.split()
    )


def test_classes_with_too_few_clips_are_reported_with_wrong_names(tmp_path: Path) -> None:
    movies(tmp_path, count=2)
    (tmp_path / "cat" / "x.doc").write_bytes(b"x")
    (tmp_path / "dog" / "0.mp4").write_bytes(b"x")
    with pytest.raises(DataError) as raised:
        SMALL.for_data(tmp_path).load(tmp_path).training_examples(0, tmp_path / "runs")
    for expected in (
        "cat: has 2 clips, and none is left to",
        "dog: has 2 clips",
        "cat/x.doc: unknown file name extension",
        "dog/0.mp4: this file format is not supported",
        "\n  class with too few (2)\n",
        "\nadd clips to these classes; correct the other files",
    ):
        assert expected in str(raised.value)
    shutil.rmtree(tmp_path / "dog")
    with pytest.raises(DataError, match="there is only class cat; two classes or more are needed"):
        SMALL.for_data(tmp_path)


def test_a_clip_is_decoded_once_even_if_the_run_is_killed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    whole = ClipFiles.decode

    def decode(files: ClipFiles, frames: int, streams: frozenset[str]) -> object:
        decoded.append(files.name)
        if len(decoded) == 4:
            raise KeyboardInterrupt
        return whole(files, frames, streams)

    monkeypatch.setattr(ClipFiles, "decode", decode)
    monkeypatch.setattr(caching, "THREADS", 1)
    task = SMALL.for_data(data)
    with pytest.raises(KeyboardInterrupt):
        task.load(data).training_examples(0, tmp_path)
    first, decoded[:] = set(decoded[:3]), []
    decoded += ["x"] * 4  # no further kill
    task.load(data).training_examples(0, tmp_path)
    assert len(decoded) == 4 + 5
    assert not first & set(decoded)
    task.load(data).training_examples(0, tmp_path)
    assert len(decoded) == 4 + 5
    assert not list((tmp_path / "cache").glob("*.part"))
    # Entries that a crash of the machine has cut off are written again.
    for entry, size in zip(sorted((tmp_path / "cache").iterdir()), (0, 1000), strict=False):
        os.truncate(entry, size)
    examples = task.load(data).training_examples(0, tmp_path)
    assert len(decoded) == 4 + 5 + 2
    assert all(entry.sound() and entry.pictures() for entry in examples.entries)
    del decoded[-2:]
    # Other content is another entry, and so is another size of pictures.
    movie(data / "cat" / "0.mp4", 0, seed=99)
    task.load(data).training_examples(0, tmp_path)
    assert decoded[9:] == ["cat/0.mp4"]
    replace(SMALL, picture_size=64).for_data(data).load(data).training_examples(0, tmp_path)
    assert len(decoded) == 10 + 8


def test_copies_of_a_clip_are_decoded_once_and_each_is_reported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that decoded two copies at once would write the same entry."""
    (data / "cat" / "damaged.mp4").write_bytes(b"no movie at all")
    for copy in range(4):
        shutil.copy(data / "dog" / "0.mp4", data / "dog" / f"0 copy {copy}.mp4")
        shutil.copy(data / "cat" / "damaged.mp4", data / "dog" / f"damaged {copy}.mp4")
    decoded: list[str] = []
    whole = ClipFiles.decode

    def decode(files: ClipFiles, frames: int, streams: frozenset[str]) -> object:
        decoded.append(files.name)
        return whole(files, frames, streams)

    monkeypatch.setattr(ClipFiles, "decode", decode)
    with pytest.raises(DataError) as raised:
        SMALL.for_data(data).load(data).training_examples(0, tmp_path)
    assert len(decoded) == 4 + 4 + 1
    assert "unreadable (5)" in str(raised.value)
    assert "duplicate (8)" in str(raised.value)


def test_the_table_of_clips_is_whole_or_the_one_before(data: Path, tmp_path: Path) -> None:
    """A clip that is trained on and not in it would be tested on."""
    loaded = SMALL.for_data(data).load(data)
    run = tmp_path / "run"
    loaded.record(run)
    trained_on = seen_digests(run)
    file = run / "split.csv"
    with full_disk(200), pytest.raises(OSError, match=str(file)):
        loaded.record(run)
    assert seen_digests(run) == trained_on
    assert list(run.iterdir()) == [file]
    for content in (b"", file.read_bytes().partition(b"\n")[0]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"split\.csv: damaged"):
            seen_digests(run)


def test_few_clips_are_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    started: list[int] = []
    decoded_count = 0

    def jobs() -> Iterator[tuple[ClipFiles, Path]]:
        for index in range(100):
            started.append(index)
            assert len(started) - decoded_count <= 2 * 3 + 1
            yield ClipFiles(str(index), "cat", "", ()), Path()

    def decode(files: ClipFiles, _: Path) -> list[Finding]:
        return [Finding("empty", files.name, "")]

    for findings in caching._in_threads(decode, jobs()):
        assert findings[0].where == str(decoded_count)  # in order
        decoded_count += 1
    assert decoded_count == 100


def test_held_out_clips_are_prepared_as_the_service_does(data: Path) -> None:
    task = SMALL.for_data(data)
    loaded = task.load(data)
    held_out = loaded.development_examples()
    assert len(held_out.clips) == 2
    for index, (files, label) in enumerate(held_out.clips):
        (path,) = (path for _, path in files.files)
        clip = read_clip(path.read_bytes(), BOTH.steps)
        served = prepare(task.specs, clip.sound, clip.pictures, BOTH.steps)
        streams, shown = held_out.example(index, BOTH)
        assert shown == label == task.labels.index(files.label)
        for name, prepared in served.items():
            assert np.array_equal(streams[name], prepared.tensor), name


def test_an_unchanged_training_clip_is_nearly_the_served_one(data: Path, tmp_path: Path) -> None:
    """The cache holds smaller pictures and 16-bit sound; nothing else differs."""
    task = replace(SMALL, augment=False, picture_size=64).for_data(data)
    loaded = task.load(data)
    examples = loaded.training_examples(0, tmp_path)
    served = type(loaded.development_examples())(
        [(clip, task.labels.index(clip.label)) for clip in loaded.of("train")], task.specs
    )
    count = len(examples.entries)
    assert count == 4
    ours = [examples.example(index, BOTH) for index in range(count)]
    for index in range(count):
        streams, label = served.example(index, BOTH)
        distances = [
            max(float(np.abs(x[name] - streams[name]).mean()) for name in streams)
            for x, own in ours
            if own == label
        ]
        assert min(distances) < 0.05


def test_examples_depend_on_seed_index_and_plan_alone(data: Path, tmp_path: Path) -> None:
    task = SMALL.for_data(data)
    loaded = task.load(data)
    first, again, other = (loaded.training_examples(seed, tmp_path) for seed in (0, 0, 1))
    hard = replace(BOTH, difficulty=1.0)
    for index in (0, 5, 11):
        ours, label = first.example(index, hard)
        same, same_label = again.example(index, hard)
        assert label == same_label
        assert all(np.array_equal(ours[name], same[name]) for name in ours)
        alone, _ = first.example(index, replace(hard, streams=("visual",)))
        assert np.array_equal(alone["visual"], ours["visual"])
    drawn = [x.example(3, hard)[0]["visual"] for x in (first, other)]
    assert not np.array_equal(*drawn)
    turn = [first.example(index, hard)[1] for index in range(4)]
    assert sorted(turn) == [0, 0, 1, 1]  # every clip once


def test_pairs_and_single_streams_are_read(tmp_path: Path) -> None:
    pairs, sounds = tmp_path / "pairs", tmp_path / "sounds"
    for number, label in enumerate(("cat", "dog")):
        for take in range(3):
            picture(pairs / label / f"{take}.png", number, take)
            sound(pairs / label / f"{take}.wav", number, take)
            sound(sounds / label / f"{take}.wav", number, take)
    for folder, streams in ((pairs, ["audio", "visual"]), (sounds, ["audio"])):
        task = SMALL.for_data(folder)
        assert list(task.specs) == streams
        examples = task.load(folder).training_examples(0, tmp_path)
        inputs, _ = examples.example(0, BatchPlan(tuple(streams), steps=2))
        assert inputs["audio"].shape == (1, 1, 64, 16)
        if "visual" in inputs:
            assert inputs["visual"].shape == (1, 3, 32, 32)  # a photograph is not repeated
    task = replace(SMALL, task="visual").for_data(pairs)
    assert list(task.specs) == ["visual"]
    assert task.defaults["modality_dropout"] == {"all": 1.0}


def test_photographs_and_animations_fit_in_one_batch(tmp_path: Path) -> None:
    for number, label in enumerate(("cat", "dog")):
        for take in range(3):
            picture(tmp_path / label / f"{take}.png", number, take)
    animation = cv2.Animation()
    animation.frames = [stripes(1, 50), stripes(2, 51), stripes(3, 52)]
    animation.durations = np.asarray([100, 100, 100])
    assert cv2.imwriteanimation(str(tmp_path / "dog" / "3.gif"), animation)
    loaded = SMALL.for_data(tmp_path).load(tmp_path)
    examples = loaded.training_examples(0, tmp_path / "runs")
    plan = BatchPlan(("visual",), steps=3)
    for drawn in (examples, loaded.development_examples()):
        shapes = {drawn.example(index, plan)[0]["visual"].shape for index in range(8)}
        assert shapes == {(3, 3, 32, 32)}


def test_a_part_of_a_clip_is_read_as_a_clip(tmp_path: Path) -> None:
    frames = tuple(np.full((48, 64, 3), 15 * index, np.uint8) for index in range(16))
    recording = Recording(tone(440, 2.0), RATE, 0.0, 2.0)
    whole = tmp_path / "a.mp4"
    whole.write_bytes(encode(Footage(frames, 8), recording, RATE))
    files = ClipFiles("a", "cat", "a", (("movie", whole),), (0.5, 1.5))
    part = files.decode(4, frozenset({"audio", "visual"}))
    assert part.sound is not None
    assert part.sound.duration_s == pytest.approx(1.0, abs=1e-3)
    assert part.pictures is not None
    shown = [round(float(frame.mean()) / 15) for frame in part.pictures.frames]
    assert shown == [5, 7, 9, 11]
    for span in ((2.5, 3.0), (60.0, 61.0)):
        late = replace(files, span=span)
        with pytest.raises(ValueError, match=r"lasts? 2\.\d+ s, and .* s is later"):
            late.decode(4, frozenset({"audio", "visual"}))


def test_a_part_that_is_mostly_beyond_its_file_is_a_mistake(data: Path, tmp_path: Path) -> None:
    """The clips last 0.5 s."""
    rows = [f"{label}/{take}.mp4,{label},0,0.9" for label in ("cat", "dog") for take in range(4)]
    rows += ["cat/0.mp4,cat,0.1,500"]
    table = data / "clips.csv"
    table.write_text("\n".join(["file,label,start,end", *rows]))
    with pytest.raises(DataError) as raised:
        SMALL.for_data(table).load(table).training_examples(0, tmp_path)
    assert "1 mistake in 9 clips\n  too short (1)\n    cat/0.mp4 0.1-500 s: only 0." in str(
        raised.value
    )
    assert "s of its 499.9 s are in the file; start and end are seconds" in str(raised.value)


def test_rare_classes_weigh_more(tmp_path: Path) -> None:
    for number, (label, count) in enumerate((("cat", 4), ("dog", 8))):
        for take in range(count):
            picture(tmp_path / label / f"{take}.png", number, take)
    task = SMALL.for_data(tmp_path)
    loaded = task.load(tmp_path)
    counts = [sum(clip.label == label for clip in loaded.of("train")) for label in task.labels]
    weights = loaded.class_weights
    assert weights is not None
    assert weights[0] * counts[0] == pytest.approx(weights[1] * counts[1])
    assert np.dot(weights, counts) == pytest.approx(sum(counts))
    plain = replace(task, class_weights=False).load(tmp_path)
    assert plain.class_weights is None


def test_fewer_clips_of_a_class_are_a_part_of_more(tmp_path: Path) -> None:
    for number, label in enumerate(("cat", "dog")):
        for take in range(9):
            picture(tmp_path / label / f"{take}.png", number, take)
    names = []
    for count in (2, 4):
        task = replace(SMALL, per_class=count).for_data(tmp_path)
        loaded = task.load(tmp_path)
        names.append({clip.name for clip in loaded.of("train")})
        assert len(names[-1]) == 2 * count
        assert len(loaded.of("test")) == 4
    assert names[0] < names[1]


def test_options_out_of_range_are_named() -> None:
    for changes, message in (
        ({"picture_size": 100}, "--picture-size 100: must be a multiple of 32"),
        ({"sound": "music"}, "--sound music: must be one of speech, general"),
        ({"task": "both"}, "--task both: must be one of auto, audio-visual, audio, visual"),
        ({"fit": "stretch"}, "--fit stretch: must be one of pad, crop"),
        ({"test_share": 0.9}, "--test-share 0.9: must be 0.01 to 0.5"),
    ):
        with pytest.raises(OptionsError) as raised:
            FolderTask(**changes)  # type: ignore[arg-type]
        assert str(raised.value) == message


def test_large_pictures_are_kept_small(tmp_path: Path) -> None:
    for number, label in enumerate(("cat", "dog")):
        for take in range(3):
            file = tmp_path / "clips" / label / f"{take}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), stripes(number, take, (600, 800)))
    task = SMALL.for_data(tmp_path / "clips")
    task.load(tmp_path / "clips").training_examples(0, tmp_path)
    for file in (tmp_path / "cache").glob("*.npz"):
        assert np.load(file)["frames"].shape == (1, 40, 53, 3)
