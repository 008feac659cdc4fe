"""The commands that end by themselves: what they print, where, and their exit codes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile
import torch
from typer.main import get_command
from typer.testing import CliRunner, Result

from model.checkpoint import read_card
from model.config import MAX_STEPS
from model.training.options import TrainOptions
from model.training.speech.held_out import HELD_OUT_SPEAKER
from service.classification.schemas import Classification
from service.commands import answer_table
from service.commands.app import app
from service.commands.train import PANELS
from service.keys import key_file
from service.setting_names import variable
from service.settings import Settings
from tests.service.checkpoints import LABELS
from tests.service.conftest import CLIPS
from tests.service.inference.test_registry import damage
from tests.service.media_files import without_sound

pytestmark = pytest.mark.slow

SEVEN = CLIPS / "digit-7.webm"
#: Settings that would be seen on a command line.
SECRETS = {"api-keys", "admin-key", "limit-store"}
COMMANDS = (
    "serve",
    "classify",
    "models",
    "settings",
    "keys",
    "train",
    "evaluate",
    "calibrate",
    "import",
    "export",
    "cochlea",
    "watch",
    "bag",
    "bench",
)


def scmrl(*arguments: object, code: int = 0, stdin: str | None = None) -> Result:
    """Run a command in a wide terminal; its exit code must be `code`, and never a traceback."""
    environment = {"COLUMNS": "200", "TERM": "dumb"}
    result = CliRunner().invoke(app, [str(x) for x in arguments], input=stdin, env=environment)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def with_weights(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoints that the commands find by themselves."""
    monkeypatch.setenv("SCMRL_MODELS", str(weights))
    return weights


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    """In a process of its own, by the console script."""
    script = Path(sys.executable).with_name("scmrl")
    printed = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(command in printed for command in COMMANDS)
    command = "import sys, service.commands.app"
    heavy = command + "; print({'torch', 'cv2', 'fastapi'} & sys.modules.keys())"
    loaded = subprocess.run(
        [sys.executable, "-c", heavy], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "set()"


@pytest.mark.parametrize("command", [*COMMANDS, "train avdigits", "export onnx"])
def test_each_command_has_help(command: str) -> None:
    stdout = scmrl(*command.split(), "--help").output
    assert "Usage" in stdout
    assert len(stdout.splitlines()) > 8


def test_no_flag_is_cut_off_in_the_help() -> None:
    """In a terminal of 80 columns, a long name beside wide columns would end in an ellipsis, and a
    long value in the text."""

    def check(command: Any, path: list[str]) -> None:
        printed = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}).output
        shown = [each for each in command.params if not getattr(each, "hidden", False)]
        names = {name for each in shown for name in [*each.opts, *each.secondary_opts]}
        flags = {name for name in names if name.startswith("--")}
        assert flags <= set(re.findall(r"--[a-z0-9-]+(?![a-z0-9-]|…)", printed)), path
        assert re.findall(r"[a-z0-9]…", printed) == [], path
        for name, part in getattr(command, "commands", {}).items():
            check(part, [*path, name])

    check(get_command(app), [])


def test_a_folder_of_checkpoints_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = scmrl("models", "--models", tmp_path / "none", code=1)
    assert result.output == f"{tmp_path / 'none'} is not a folder\n"


def test_no_switch_is_shown_with_a_value() -> None:
    """`--json <bool>`, as Typer shows it, reads as if `--json true` worked."""

    def check(command: Any, path: list[str]) -> None:
        flags = [each for each in command.params if getattr(each, "is_flag", False)]
        shown = [each.opts for each in flags if each.metavar != ""]
        assert [each for each in shown if "completion" not in each[0]] == [], path
        for name, part in getattr(command, "commands", {}).items():
            check(part, [*path, name])

    check(get_command(app), [])


def test_every_option_of_training_is_in_a_panel_of_the_help() -> None:
    panels = [name for names in PANELS.values() for name in names]
    assert sorted(panels) == sorted(field.name for field in fields(TrainOptions) if field.metadata)


def test_flags_of_serve_are_the_settings_with_their_defaults() -> None:
    from service.settings import Settings

    stdout = scmrl("serve", "--help").output
    flags = set(re.findall(r"--([a-z][a-z-]+)", stdout))
    assert {name.replace("_", "-") for name in Settings.model_fields} - flags == SECRETS
    assert "[default: 128 requests]" in stdout
    assert "[default: none]" in stdout


def test_an_old_name_of_a_flag_works_with_a_warning_and_is_not_in_the_help() -> None:
    result = scmrl("serve", "--shed-steps", MAX_STEPS + 1, code=2)
    assert "--shed-steps is now --min-steps-under-load" in result.stderr
    assert "--min-steps-under-load (SCMRL_MIN_STEPS_UNDER_LOAD): " in result.stderr
    assert f"to {MAX_STEPS} steps" in result.stderr
    assert "--shed-steps" not in scmrl("serve", "--help").output


def test_secrets_have_no_flag_and_the_help_names_their_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SCMRL_API_KEYS", "anna:q7Zt4mXv9RkB2wLc8NpY")
    monkeypatch.setenv("SCMRL_ADMIN_KEY", "q7Zt4mXv9RkB2wLc8NpY")
    stdout = scmrl("serve", "--help").output
    assert "0123456789" not in stdout
    for name in SECRETS:
        assert "SCMRL_" + name.upper().replace("-", "_") in stdout
        message = scmrl("serve", f"--{name}", "anna:q7Zt4mXv9RkB2wLc8NpY", code=2).output
        assert "No such option" in message
        assert "0123456789" not in message


# --- classify ------------------------------------------------------------------------------


def test_one_clip_is_a_table_of_labels_with_the_contribution_of_each_stream(
    with_weights: Path,
) -> None:
    printed = scmrl("classify", SEVEN, "--top-k", 3).stdout
    assert "digit-7.webm" in printed
    for heading in ("probability", "audio", "visual", "bias", "logit"):
        assert heading in printed
    assert printed.count("%") == 3 + 1
    assert "2.00 s at 48000 Hz" in printed
    assert "4 pictures of 320 x 240" in printed


def test_an_answer_below_the_threshold_is_none(with_weights: Path) -> None:
    assert "no label" in scmrl("classify", SEVEN, "--abstain-below", 1).stdout
    assert "no label" not in scmrl("classify", SEVEN).stdout
    printed = scmrl("classify", SEVEN, SEVEN, "--abstain-below", 1).stdout
    assert printed.count("no label") == 2


def test_leave_one_out_is_a_column_for_each_stream(with_weights: Path) -> None:
    printed = scmrl("classify", SEVEN, "--contributions", "leave_one_out", "--json").stdout
    changes = json.loads(printed)["leave_one_out"]["changes"]
    assert set(changes) == {"audio", "visual"}
    printed = scmrl("classify", SEVEN, "--contributions", "leave_one_out", "--top-k", 1).stdout
    assert "Δ audio" in printed
    assert "Δ visual" in printed
    printed = scmrl("classify", SEVEN, SEVEN, "--contributions", "leave_one_out").stdout
    assert "logit of all streams - without each" in printed


def test_a_contribution_that_rounds_to_zero_has_no_minus(
    with_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = json.loads(scmrl("classify", SEVEN, "--json").stdout)
    clip = Path(fields.pop("clip"))
    for terms in fields["contributions"].values():
        terms.update(dict.fromkeys(terms, -0.001))
    answer_table.show([(clip, Classification.model_validate(fields))], top_k=1)
    printed = capsys.readouterr().out
    assert "+0.00" in printed
    assert "-0.00" not in printed


def test_several_clips_are_a_line_each(with_weights: Path) -> None:
    names = [f"digit-{digit}.mp4" for digit in range(3)]
    printed = scmrl("classify", *(CLIPS / name for name in names)).stdout
    assert all(name in printed for name in names)
    assert "3 clips" in printed


def test_json_is_a_line_a_clip_as_the_service_answers(with_weights: Path) -> None:
    printed = scmrl("classify", SEVEN, CLIPS / "digit-1.mp4", "--json", "--steps", 2).stdout
    first, second = map(json.loads, printed.splitlines())
    assert (Path(first["clip"]).name, Path(second["clip"]).name) == ("digit-7.webm", "digit-1.mp4")
    assert first["steps"] == 2
    assert {entry["label"] for entry in first["probabilities"]} == set(LABELS)
    assert np.shape(first["attention"]["visual"]["temporal"]["values"]) == (2, 2)
    assert first["model"]["name"] == "avdigits"


def test_a_bad_clip_is_reported_and_the_others_are_classified(
    with_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.mp4").write_text("not a clip")
    (tmp_path / "empty.mp4").touch()
    bad = [tmp_path / name for name in ("notes.mp4", "empty.mp4", "missing.mp4")]
    result = scmrl("classify", bad[0], SEVEN, *bad[1:], code=1)
    assert "digit-7.webm" in result.stdout
    for clip, message in zip(bad, ("not supported", "empty", "No such file"), strict=True):
        (line,) = [x for x in result.stderr.splitlines() if x.startswith(str(clip))]
        assert message in line
    lines = scmrl("classify", bad[0], SEVEN, "--json", code=1).stdout.splitlines()
    assert json.loads(lines[0])["error"]["status"] == 415
    assert json.loads(lines[1])["prediction"]


def test_overlay_writes_a_picture_for_each_clip(with_weights: Path, tmp_path: Path) -> None:
    files = ("--overlay", tmp_path / "one.png", "--class-activation", tmp_path / "why.png")
    printed = scmrl("classify", SEVEN, *files).stdout
    assert f"wrote {tmp_path / 'why.png'}" in printed
    assert (tmp_path / "why.png").read_bytes() != (tmp_path / "one.png").read_bytes()
    assert f"wrote {tmp_path / 'one.png'}" in printed
    picture = cv2.imread(str(tmp_path / "one.png"))
    assert picture is not None
    assert picture.shape[1] > picture.shape[0] > 200, "two maps side by side"
    same = shutil.copy(SEVEN, tmp_path / "digit-7.mp4")
    scmrl("classify", SEVEN, same, CLIPS / "digit-1.mp4", "--overlay", tmp_path / "all.png")
    names = {path.name for path in tmp_path.glob("all*")}
    assert names == {"all-digit-7.png", "all-digit-7-2.png", "all-digit-1.png"}


def test_an_overlay_that_cannot_be_written_is_reported(with_weights: Path, tmp_path: Path) -> None:
    result = scmrl("classify", SEVEN, "--overlay", tmp_path / "no" / "where.png", code=1)
    assert f"cannot write {tmp_path / 'no' / 'where.png'}" in result.stderr
    assert "digit-7.webm" in result.stdout, "the answer is there all the same"
    silent = tmp_path / "silent.mp4"
    silent.write_bytes(without_sound((CLIPS / "digit-7.mp4").read_bytes()))
    files = ("--overlay", tmp_path / "silent.png", "--class-activation", tmp_path / "why.png")
    output = scmrl("classify", silent, *files)
    assert "no attention maps, which need several streams; --class-act" in output.stderr
    assert (tmp_path / "why.png").exists(), "the picture alone has a class activation map"
    assert "there is no sound in it" in output.stdout


def test_a_file_name_that_looks_like_markup_is_printed_as_it_is(
    with_weights: Path, tmp_path: Path
) -> None:
    odd = shutil.copy(SEVEN, tmp_path / "[bold]a[")
    odder = shutil.copy(SEVEN, tmp_path / "b[nothing].mp4")
    assert "[bold]a[" in scmrl("classify", odd).stdout
    printed = scmrl("classify", odd, odder).stdout
    assert "[bold]a[" in printed
    assert "b[nothing].mp4" in printed


def test_a_checkpoint_is_given_by_name_or_folder(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_name = scmrl("classify", SEVEN, "--models", weights, "--model", "strict", "--json").stdout
    by_folder = scmrl("classify", SEVEN, "--model", weights / "strict", "--json").stdout
    monkeypatch.chdir(weights / "strict")
    from_within = scmrl("classify", SEVEN, "--model", ".", "--json").stdout
    answers = [json.loads(text) for text in (by_name, by_folder, from_within)]
    assert {answer["model"]["name"] for answer in answers} == {"strict"}
    assert len({answer["prediction"]["probability"] for answer in answers}) == 1


def test_classify_names_a_missing_checkpoint(weights: Path, tmp_path: Path) -> None:
    output = scmrl("classify", SEVEN, "--models", tmp_path, code=1).stderr
    assert output == f"no checkpoint 'avdigits' in {tmp_path}; there are: none\n"
    output = scmrl("classify", SEVEN, "--models", weights, "--model", "strikt", code=1).stderr
    assert output == f"no checkpoint 'strikt' in {weights}; there are: avdigits, strict\n"
    copied = shutil.copytree(weights, tmp_path / "copied")
    damage(copied / "avdigits")
    assert "sha256" in scmrl("classify", SEVEN, "--models", copied, code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--audio-events"),
        (["x.mp4", "--steps", "0"], "--steps"),
        (["x.mp4", "--top-k", "0"], "--top-k"),
        (["x.mp4", "--overlay", "maps.jpg"], "maps.jpg"),
        (["x.mp4", "--overlay", "m.png", "--class-activation", "./m.png"], "name another file"),
        (["x.mp4", "y.mp4", "--audio-events", "z.npz"], "--audio-events"),
    ],
)
def test_classify_refuses_invalid_arguments(arguments: list[str], named: str) -> None:
    assert named in scmrl("classify", *arguments, code=2).stderr


# --- models --------------------------------------------------------------------------------


def test_models_lists_checkpoints_and_reports_damaged_ones(weights: Path, tmp_path: Path) -> None:
    printed = scmrl("models", "--models", weights).stdout
    for message in ("avdigits", "strict", "0.0.1", "audio", "visual", "10: 0"):
        assert message in printed
    copied = shutil.copytree(weights, tmp_path / "copied")
    damage(copied / "strict")
    result = scmrl("models", "--models", copied, code=1)
    assert "avdigits" in result.stdout
    assert "strict" not in result.stdout
    assert str(copied / "strict" / "card.json") in result.stderr


def test_models_has_the_accuracy_with_each_choice_of_streams() -> None:
    """Not those with noise, with int8 weights and at each T: pages of them."""
    printed = scmrl("models").stdout
    for name, streams in (("avdigits", "both streams"), ("drones", "sound alone")):
        measured = {m.what: m.value for m in read_card(Settings().models / name).accuracy}
        assert name in printed
        assert f"{streams}: {measured[f'accuracy, {streams}']:.1%}".replace("%", " %") in printed
    assert "int8" not in printed
    assert len(printed.splitlines()) < 5 + 4 * 4


def test_models_json_is_a_card_a_line(weights: Path) -> None:
    lines = scmrl("models", "--models", weights, "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["avdigits", "strict"]


def test_models_reports_an_empty_folder(tmp_path: Path) -> None:
    assert str(tmp_path) in scmrl("models", "--models", tmp_path, code=1).stderr


def test_settings_lists_values_and_hides_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SCMRL_QUEUE_LENGTH", "13")
    monkeypatch.setenv("SCMRL_ADMIN_KEY", "a-secret-of-the-operator")
    monkeypatch.setenv("COLUMNS", "200")
    stdout = scmrl("settings").output
    assert re.search(r"SCMRL_QUEUE_LENGTH\s*│\s*13 requests \(default: 128 requests\)", stdout)
    assert re.search(r"SCMRL_ADMIN_KEY\s*│\s*set \(default: none\)", stdout)
    assert "a-secret" not in stdout
    monkeypatch.setenv("COLUMNS", "80")
    names = scmrl("settings").output
    assert [name for name in Settings.model_fields if variable(name) not in names] == []
    monkeypatch.setenv("SCMRL_MAX_BATCH", "none at all")
    assert "SCMRL_MAX_BATCH: " in scmrl("settings", code=2).stderr


# --- train and evaluate --------------------------------------------------------------------


def training(folder: Path, rate: int | None = None) -> Path:
    """A data folder of white pictures, and of two speakers' clicks where a rate is given."""
    (folder / "speech").mkdir(parents=True)
    images, labels = np.full((200, 28, 28), 255, np.uint8), np.arange(200, dtype=np.uint8) % 10
    np.savez(folder / "handwriting.npz", images=images, labels=labels)
    for digit in range(10 if rate else 0):
        for speaker, take in product((HELD_OUT_SPEAKER, "somebody"), range(4)):
            file = folder / "speech" / f"{digit}_{speaker}_{take}.wav"
            soundfile.write(file, 0.1 * np.hanning(800), rate)
    return folder


def train(data: Path, out: Path, *more: object) -> str:
    """What training says that cannot be."""
    stdout = scmrl(
        "train", "avdigits", "--data", data, "--out", out, "--synthetic-takes", 0, *more, code=2
    ).stderr
    return str(stdout)


def test_training_without_data_says_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert str(tmp_path / "handwriting.npz") in train(tmp_path, out)
    assert str(tmp_path / "empty" / "speech") in train(training(tmp_path / "empty"), out)
    output = train(training(tmp_path / "fast", rate=16_000), out)
    assert "16000 Hz" in output
    assert ".wav" in output
    assert not out.exists()


def test_training_with_a_width_that_no_network_has_says_so(tmp_path: Path) -> None:
    output = train(tmp_path, tmp_path / "out", "--channels", 17)
    assert output == "scmrl: --channels 17: must be a multiple of 16, the number of heads\n"


@pytest.mark.parametrize(
    "dropout", ["audio", "audio=half", "touch=1", "audio=0.5,visual=0.4", "audio=2,visual=-1"]
)
def test_modality_dropout_that_is_none_is_refused(tmp_path: Path, dropout: str) -> None:
    arguments = ("train", "avdigits", "--data", tmp_path, "--modality-dropout", dropout)
    output = scmrl(*arguments, code=2).stderr
    assert f"--modality-dropout {dropout}: " in output
    assert "Traceback" not in output


def test_training_leaves_another_run_alone(tmp_path: Path) -> None:
    data, out = training(tmp_path / "data", rate=8000), tmp_path / "out"
    out.mkdir()
    (out / "last.pt").write_text("hours of work")
    assert "--resume" in train(data, out, "--development-clips", 10)
    assert (out / "last.pt").read_text() == "hours of work"
    output = train(data, data / "handwriting.npz" / "out", "--development-clips", 10)
    assert "Not a directory" in output


def test_evaluating_without_a_checkpoint_or_data_says_what_is_missing(
    weights: Path, tmp_path: Path
) -> None:
    output = scmrl("evaluate", tmp_path, "--data", tmp_path, "--out", tmp_path, code=2).stderr
    assert str(tmp_path / "card.json") in output
    output = scmrl(
        "evaluate", weights / "avdigits", "--data", tmp_path, "--out", tmp_path, code=2
    ).stderr
    assert str(tmp_path / "handwriting.npz") in output


def test_a_required_option_that_is_missing_is_named() -> None:
    assert "--data" in scmrl("train", "avdigits", code=2).stderr
    assert "--data" in scmrl("evaluate", "weights/avdigits", code=2).stderr


@pytest.mark.parametrize(
    "command",
    [
        ("classify", SEVEN),
        ("evaluate", "weights/avdigits", "--data", "/nowhere"),
        ("bench", "engine"),
        ("serve",),
    ],
    ids=lambda command: command[0],
)
def test_an_unknown_device_is_reported_with_the_choices(command: tuple[object, ...]) -> None:
    output = scmrl(*command, "--device", "foo", code=2).stderr
    assert "--device" in output
    assert "auto, cpu, cuda" in re.sub(r"[\s│]+", " ", output)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
@pytest.mark.parametrize(
    "command",
    [
        ("classify", SEVEN),
        ("evaluate", "weights/avdigits", "--data", "/nowhere"),
        ("bench", "engine"),
    ],
    ids=lambda command: command[0],
)
def test_missing_cuda_is_reported(command: tuple[object, ...]) -> None:
    for device in ("cuda", "cuda:0"):
        output = scmrl(*command, "--device", device, code=2).stderr
        assert f"device {device}" in output
        assert "no CUDA" in output


def test_a_new_key_matches_its_line(tmp_path: Path) -> None:
    key, line = scmrl("keys", "new", "anna", "--per-minute", 60).stdout.splitlines()
    secret = key.removeprefix("key:").strip()
    file = tmp_path / "keys"
    file.write_text(line.removeprefix("line:").strip())
    (stored,) = key_file.read(Settings(api_keys_file=file)).api
    assert key_file.Keys((stored,)).find(secret.encode()) == stored
    assert (stored.name, stored.per_minute) == ("anna", 60)
    assert secret not in line
    assert secret not in scmrl("keys", "new", "anna").stdout, "it is not random"


def test_new_keys_are_appended_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    secret = scmrl("keys", "new", "anna", "--append-to", file).stdout.strip()
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text(file.read_text().rstrip())  # edited by hand
    scmrl("keys", "new", "bert", "--append-to", file)
    anna, bert = key_file.read(Settings(api_keys_file=file)).api
    assert key_file.Keys((anna, bert)).find(secret.encode()) == anna
    assert bert.name == "bert"
    before = file.read_text()
    again = scmrl("keys", "new", "anna", "--append-to", file, code=2)
    assert "has a key of anna already" in again.stderr
    assert file.read_text() == before
    admin = tmp_path / "admin-key"
    scmrl("keys", "new", "admin", "--append-to", admin)
    assert "already" in scmrl("keys", "new", "admin", "--append-to", admin, code=2).stderr
    nowhere = tmp_path / "nowhere" / "keys"
    assert (
        f"{nowhere}: the line" in scmrl("keys", "new", "c", "--append-to", nowhere, code=2).stderr
    )


def test_the_line_of_a_key_from_stdin_matches_it() -> None:
    secret = "q7Zt4mXv9RkB2wLc8NpY"
    line = scmrl("keys", "hash", "admin", stdin=f"{secret}\n").stdout.strip()
    admin = key_file.read(Settings(admin_key=line)).admin
    assert admin is not None
    assert key_file.Keys(admin=admin).find(secret.encode()) == admin
    weak = "my-secret-api-key-2026"
    refused = scmrl("keys", "hash", "anna", stdin=weak, code=2)
    assert "can be guessed" in refused.stderr
    assert weak not in refused.output
    assert scmrl("keys", "hash", "anna", "--allow-weak", stdin=weak).stdout.startswith("anna:sha")
    assert "the name must be" in scmrl("keys", "new", "an:na", code=2).stderr
