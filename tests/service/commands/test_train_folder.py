"""Clips of one's own from the command line: trained, measured and served by short commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model import checkpoint
from service.classification.local_classifier import LocalClassifier
from service.classification.options import Options
from service.classification.upload_fields import InputFiles
from service.settings import Settings
from tests.model.training.folder.clip_files import movies
from tests.service.commands.test_cli import scmrl

pytestmark = pytest.mark.slow

SMALL = (
    "--epochs", 1, "--clips", 16, "--channels", 16, "--steps", 1, "--picture-size", 32,
    "--seconds", 0.4, "--device", "cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return movies(tmp_path_factory.mktemp("clips"), count=3)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mine"
    shown = scmrl("train", "folder", "--data", data, "--out", out, *SMALL)
    assert "nothing wrong with 6 clips: cat 3, dog 3; train 2, development 2, test 2" in (
        shown.stderr.replace("\n", " ")
    )
    assert "forward pass in " in shown.stdout
    assert "warning: batch norms" not in shown.stdout  # they were settled
    return out


def test_a_run_is_evaluated_with_its_own_data(run: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures"
    few = ("--curve-clips", "3", "--device", "cpu")
    scmrl("evaluate", run, "--out", figures, "--write-card", *few)
    card = checkpoint.read_card(run)
    assert {m.n for m in card.accuracy if "answered" not in m.what} == {1, 2}
    assert {m.n for m in card.accuracy if "answered" in m.what} == {3}
    assert (figures / "confusion.png").is_file()
    shown = scmrl("models", "--models", run.parent).stdout
    assert "both streams: " in shown
    assert "recall" not in shown


def test_a_run_is_served_as_the_only_checkpoint(run: Path, data: Path) -> None:
    assert Settings(models=run.parent).default_model == "mine"
    clip = (data / "cat" / "0.mp4").read_bytes()
    answer = LocalClassifier(run, "cpu").classify(InputFiles(clip=clip), Options())
    assert answer.streams["audio"].used
    assert answer.streams["visual"].used
    assert {each.label for each in answer.probabilities} == {"cat", "dog"}


def test_a_run_with_a_chosen_batch_is_resumed(run: Path, data: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "mine"))
    again = ("train", "folder", "--data", data, "--out", copied, *SMALL, "--resume")
    scmrl(*again)
    message = scmrl(*again, "--sound", "speech", code=2).stderr
    assert "--sound speech, but the run has general;" in message


def test_mistakes_of_a_folder_are_printed_by_kind(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "clips"))
    (folder / "cat" / "cut.mp4").write_bytes((folder / "cat" / "0.mp4").read_bytes()[:400])
    (folder / "dog" / "notes.odt").write_bytes(b"x")
    arguments = ("train", "folder", "--data", folder, "--out", tmp_path / "out", *SMALL)
    message = scmrl(*arguments, code=2).stderr
    assert f"scmrl: {folder}: 2 mistakes in 7 clips\n  wrong name (1)\n    dog/notes.odt" in message
    assert "\n  unreadable (1)\n    cat/cut.mp4: the file is damaged or truncated" in message
    assert "left out (--skip-faulty)" in scmrl(*arguments, "--skip-faulty").stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--picture-size", "100"), "--picture-size 100: must be a multiple of 32"),
        (("--task", "smell"), "--task smell: must be one of auto, audio-visual, audio, visual"),
        (("--like", "nowhere"), "nowhere/card.json: No such file or directory"),
        (("--attention", "all"), "--attention all: must be one of spatial, temporal, "),
        (("--test-share", "0.9"), "--test-share"),
    ],
)
def test_an_option_of_a_folder_is_refused_by_name(
    data: Path, tmp_path: Path, option: tuple[str, str], message: str
) -> None:
    out = tmp_path / "out"
    assert message in scmrl("train", "folder", "--data", data, "--out", out, *option, code=2).stderr
    assert not out.exists()


def test_data_of_another_task_are_refused_with_the_task_of_the_checkpoint(
    run: Path, data: Path, weights: Path, tmp_path: Path
) -> None:
    message = scmrl("evaluate", weights / "avdigits", "--data", data, code=2).stderr
    assert f"{data / 'handwriting.npz'}: not found" in message
    assert (
        "data of its task, avdigits, with --data: Folder of handwriting.npz and speech/." in message
    )
    message = scmrl("evaluate", weights / "avdigits", code=2).stderr
    assert "data of its task, avdigits, with --data: " in message
    message = scmrl("evaluate", run, "--data", tmp_path, code=2).stderr
    assert f"{tmp_path}: holds no clips; it must have a folder for each class" in message
    assert "data of its task, folder, with --data: Folder of DIR/CLASS/CLIP.mp4" in message
