"""`make gpu-check` records the result of each part or why it failed, and runs the next one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.fused.cuda.tiles import LayerShape, Tile
from tests.ci import load
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

check = load("gpu_check")
MACHINE = {
    "gpu": "a card", "cores": 2, "processor": "a CPU", "driver": "1", "cuda": "13", "torch": "2",
    "triton": "3", "python": "3.11", "load_average": 0.1, "date": "today", "commit": "abc",
}  # fmt: skip
START = {"start": "first", "path": "fused", "ready_s": 1.0, "answer_s": 2.0, "fused_s": 9.0}
#: A part's program, and the state and the reason that the report has of it.
PROGRAMS = {
    "starts": (f"print('a log line'); print({json.dumps([START])!r})", "done", ""),
    "engine, x": ("print('loading'); raise RuntimeError('no such card')", "failed", "no such card"),
    "service": ("print('done')", "failed", "JSONDecodeError"),
    "tests": ("import os; os.abort()", "failed", "exit code -6"),
}


def part(name: str, program: str, limit_s: float = 30) -> Any:
    return check.Part(name, ("-c", program), limit_s, check.read_last_line)


def test_a_failed_part_is_in_both_files_with_its_reason_and_the_next_parts_run(
    tmp_path: Path,
) -> None:
    report = check.Report(MACHINE, "cuda")
    parts = [part(name, program) for name, (program, _, _) in PROGRAMS.items()]
    report.outcomes.extend(check.run_all(parts, time.monotonic() + 600))
    report.write(tmp_path)
    written = json.loads((tmp_path / "gpu-check.json").read_text())
    table = (tmp_path / "gpu-check.md").read_text()
    for outcome, (name, (_, state, reason)) in zip(written["parts"], PROGRAMS.items(), strict=True):
        assert (outcome["name"], outcome["state"]) == (name, state)
        assert reason in outcome["reason"]
        assert f"| {name} |" in table
    assert written["machine"] == MACHINE
    assert written["parts"][0]["result"] == [START]
    assert "1.0 / 2.0 / 9.0 s" in table
    assert "no such card" in table
    assert report.code == check.FAILED


@pytest.mark.parametrize(
    ("ending", "limit_s", "state"),
    [
        ("time.sleep(60)", 3.0, "timed out"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 60.0, "failed"),
    ],
)
def test_a_part_that_hangs_or_crashes_leaves_no_process_and_keeps_what_it_printed(
    tmp_path: Path, ending: str, limit_s: float, state: str
) -> None:
    """Its child is in a session of its own, as the servers of benchmarks are, and has no variable
    of a setting, as the processes of the service."""
    started = tmp_path / "pid"
    program = (
        "import os, signal, subprocess, sys, time; from pathlib import Path; "
        "words = [sys.executable, '-c', 'import time; time.sleep(60)']; "
        "variables = {k: v for k, v in os.environ.items() if not k.startswith('SCMRL_')}; "
        "child = subprocess.Popen(words, env=variables, start_new_session=True); "
        f"Path({str(started)!r}).write_text(str(child.pid)); "
        f"print({json.dumps([START])!r}, flush=True); {ending}"
    )
    outcome = check.run(part("starts", program), limit_s)
    assert (outcome.state, outcome.result) == (state, [START])
    assert outcome.seconds < 30
    command = Path("/proc", started.read_text(), "cmdline")
    assert not command.exists() or not command.read_bytes(), "it is alive, not a zombie"


def test_a_part_that_takes_too_long_is_interrupted_and_its_tests_so_far_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # it starts in half a second
    file = tmp_path / "test_two.py"
    file.write_text("import time\ndef test_a(): pass\ndef test_b(): time.sleep(60)\n")
    command = (
        "-m", "pytest", "-q", "--noconftest", "--rootdir", str(tmp_path), "-p", "no:cacheprovider",
        "--junitxml={folder}/tests.xml", str(file),
    )  # fmt: skip
    outcome = check.run(check.Part("tests", command, 60, check.read_tests, 60), 5.0)
    assert (outcome.state, outcome.result["passed"]) == ("timed out", 1)


def test_a_part_that_cannot_be_interrupted_is_killed() -> None:
    program = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    outcome = check.run(replace(part("service", program), interrupt_s=0.1), 2.0)
    assert outcome.state == "timed out"
    assert outcome.seconds < 30


def test_parts_for_which_no_time_is_left_are_named() -> None:
    (outcome,) = check.run_all([part("service", "print(1)")], time.monotonic() + 1)
    assert outcome.state == "no time left"


TESTS = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure/></testcase>
<testcase classname="a" name="broken"><error/></testcase>
<testcase classname="a" name="skipped"><skipped/></testcase>
</testsuite></testsuites>"""


def test_tests_are_counted_and_skipped_ones_alone_are_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "tests.xml"
    file.write_text(TESTS)
    counts = check.read_tests("", tmp_path)
    assert counts == {"passed": 1, "failed": ["a.bad", "a.broken"], "skipped": 1}
    file.write_text('<testsuite><testcase name="x"><skipped/></testcase></testsuite>')
    with pytest.raises(ValueError, match="no test ran"):
        check.read_tests("", tmp_path)


def test_the_table_has_a_row_for_each_figure_of_the_benchmarks() -> None:
    load_result = {
        "offered_per_s": None, "answered_per_s": 20.5, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0,
        "failed": {"503": 2},
    }  # fmt: skip
    timings = [
        {"path": path, "batch": 8, "samples_s": 100.0 * ratio, "ratio": ratio}
        for path, ratio in (("plain", 1.0), ("fused-graphs", 5.0))
    ]
    parity = {"samples": 32, "flips": 1, "spikes": 1000, "classes": 0}
    same = {
        "of": "test clips", "clips": 9, "device": "cuda", "cpu_path": "fused", "cpu_right": 8,
        "path": "fused-graphs", "right": 7, "differ": 1, "difference": 0.25,
    }  # fmt: skip
    kernels = [{"name": "fire", "count": 20, "microseconds": 1150.0}] * 2
    launched = {"path": "fused-graphs", "batch": 8, "launches": 1, "kernels": kernels}
    case = {
        "timings": timings, "parity": {"fused-graphs": parity}, "kernels": [{"paths": [launched]}],
    }  # fmt: skip
    shape = LayerShape(32, 16, 8, 3, 64, 9, 4, "held")
    changed = [{"layer": asdict(shape), "tile": asdict(Tile(64, 32, 128, 4, flat=True))}]
    tiles = {
        "before": [[1, 0.01], [8, 0.02]], "after": [[1, 0.01], [8, 0.004], [64, 0.016]],
        "tuned_s": 40.2, "measured": 90, "unfinished": 7, "changed": changed, "max_batch": 64,
    }  # fmt: skip
    results: dict[str, Any] = {
        "engine, events": {"cases": [case]},
        "tiles, events": tiles,
        "service": {"scmrl": [load_result], "cpu_ms": {"1 client": {"all": 40.0}}},
        "accuracy of avdigits": [same],
        "tests": {"passed": 1, "failed": ["a.bad"], "skipped": 0},
    }
    report = check.Report(MACHINE, "cuda")
    report.outcomes += [check.Outcome(name, "done", 1.0, each) for name, each in results.items()]
    assert report.code == check.DONE
    table = check.gpu_table.markdown(
        {"machine": MACHINE, "device": "cuda", "parts": [vars(each) for each in report.outcomes]}
    )
    for figure in ("100 / 500 (5.0 times)", "1 of 1000 spikes", "20.5 clips/s", "2 x 503", "40.0",
                   "8 / 7; 1 answers differ", "1 / 1 / 0", "a.bad", "1 / 40 in 2,300 us",
                   "| 400 / 2,000 |", "| 4,000 |", "90 / 7 / 1 in 40 s", "| 64 |",
                   "batch 32, held 3 to 64, 16 x 8, 9 taps",
                   "1 steps x 64 pixels x 32 filters x 128, taps x channels, 4 warps"):  # fmt: skip
        assert figure in table, figure


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_a_machine_without_a_gpu_is_named_by_a_code_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, ".ci/gpu_check.py", "--out", str(tmp_path / "out")]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == check.NO_GPU
    assert "no GPU" in completed.stdout
    assert not (tmp_path / "out").exists()
