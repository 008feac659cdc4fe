"""`scmrl bench tables`: Markdown of the files that benchmarks write."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.commands.app import app
from service.commands.bench import markdown_tables
from service.commands.bench.report import write
from tests.conftest import ROOT

BENCHMARKS = ROOT / "docs/benchmarks"
PAGES = (ROOT / "README.md", ROOT / "docs/performance.md")
TENSORS = {"max_batch": 8, "engine": 200.0, "queue": 190.0, "answers": 149.9}
TENSORS_TABLE = (
    "| engine alone | through the queue | whole answers |\n| --- | --- | --- |\n"
    "| 200 clips/s | 190 (95 %) | 150 (75 %) |\n"
)


def put(folder: Path, name: str, results: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"machine": {}, "results": results}))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_files(page: Path) -> None:
    text = page.read_text()
    assert markdown_tables.names_in(text)
    assert markdown_tables.fill(text, markdown_tables.tables_of(BENCHMARKS)) == text


def test_the_pages_use_every_file_and_name_its_command() -> None:
    used = {name for page in PAGES for name in markdown_tables.names_in(page.read_text())}
    prose = " ".join((ROOT / "docs/performance.md").read_text().split())
    for path in BENCHMARKS.iterdir():
        assert any(name.startswith(f"{path.stem}.") for name in used)
        command = re.sub(r" --out \S+", "", json.loads(path.read_text())["command"])
        assert f"`{command}`" in prose


def test_a_figure_that_changes_changes_its_tables(tmp_path: Path) -> None:
    folder = shutil.copytree(BENCHMARKS, tmp_path / "files")
    before = markdown_tables.tables_of(folder)
    file = folder / "service.json"
    content = json.loads(file.read_text())
    content["results"]["scmrl"][0]["answered_per_s"] = 99.94
    file.write_text(json.dumps(content))
    after = markdown_tables.tables_of(folder)
    assert {name for name in before if before[name] != after[name]} == {"readme", "service.loads"}
    assert "| 99.9 clips/s |" in after["service.loads"]
    assert "| 99.9 clips/s; p99 " in after["readme"]


def test_tables_are_printed_with_the_lines_that_mark_their_places(tmp_path: Path) -> None:
    put(tmp_path, "tensors", TENSORS)
    line = {"variable": "client", "quantity": "ms", "points": [1.0, 2.0], "values": [3.0, 5.0],
            "slope": 2.0, "offset": 1.0}  # fmt: skip
    falling = line | {"quantity": "clips/s", "values": [5.0, 3.0], "slope": -2.0, "offset": 7.0}
    put(tmp_path, "scaling", [line, falling])
    (tmp_path / "gpu-check.json").write_text("{}")  # not of scmrl bench
    printed = CliRunner().invoke(app, ["bench", "tables", str(tmp_path)])
    assert printed.exit_code == 0
    assert f"<!-- bench: tensors.ways -->\n{TENSORS_TABLE}\n" in printed.stdout
    assert "| client | ms | 1 / 2: 3 / 5 | 1.0 + 2.00 each |\n" in printed.stdout
    assert "| client | clips/s | 1 / 2: 5 / 3 | 7.0 - 2.00 each |\n" in printed.stdout
    assert "service" not in printed.stdout


@pytest.mark.parametrize("between", ["", "\n"])
@pytest.mark.parametrize("old", ["", "| old |\n| --- |\n| 1 |\n\n"])
def test_a_table_is_written_below_its_line(tmp_path: Path, between: str, old: str) -> None:
    put(tmp_path / "files", "tensors", TENSORS)
    page = tmp_path / "page.md"
    page.write_text(f"Before: <!-- bench: tensors.ways -->\n{between}{old}After.\n")
    for _ in range(2):  # the second changes nothing
        command = ["bench", "tables", str(tmp_path / "files"), "--into", str(page)]
        written = CliRunner().invoke(app, command)
        assert written.exit_code == 0, written.output
        expected = f"Before: <!-- bench: tensors.ways -->\n{between}{TENSORS_TABLE}\nAfter.\n"
        assert page.read_text() == expected


def test_what_cannot_be_written_is_named_and_no_page_changes(tmp_path: Path) -> None:
    files = tmp_path / "files"
    put(files, "tensors", TENSORS)
    good, bad = tmp_path / "good.md", tmp_path / "bad.md"
    good.write_text("<!-- bench: tensors.ways -->\n")
    bad.write_text("<!-- bench: service.loads -->\n")
    into = ["--into", str(good), "--into", str(bad)]
    for change, message in (
        (lambda: None, "service.loads"),
        (lambda: put(files, "tensors", {"engine": 1.0}), "tensors.json"),
        (lambda: (files / "tensors.json").write_text("{"), "tensors.json"),
        ((files / "tensors.json").unlink, str(files)),
    ):
        change()
        refused = CliRunner().invoke(app, ["bench", "tables", str(files), *into])
        assert refused.exit_code == 1
        assert "Error: " in refused.output
        assert message in refused.output.replace("\n", "")
        assert good.read_text() == "<!-- bench: tensors.ways -->\n"


def test_a_benchmark_writes_its_command_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="scmrl[bench] is not installed")
    from matplotlib.figure import Figure

    monkeypatch.setattr("sys.argv", ["scmrl", "bench", "tensors", "--weights", "my weights"])
    write(tmp_path, "tensors", TENSORS, Figure())
    content = json.loads((tmp_path / "tensors.json").read_text())
    assert content["command"] == "scmrl bench tensors --weights 'my weights'"
    assert content["machine"]["cores"] >= 1
    assert markdown_tables.tables_of(tmp_path) == {"tensors.ways": TENSORS_TABLE}
