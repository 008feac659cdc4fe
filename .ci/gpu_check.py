"""Check this machine's GPU in ten minutes: tests, speed, service, accuracy and starts.

    python .ci/gpu_check.py [--device cuda|cpu] [--minutes N] [--data FOLDER] [--out FOLDER]

Each part is a process with a time limit. Its result, or the reason why it failed, is written to
gpu-check.json and gpu-check.md before the next part runs. `--device cpu` tries the script itself,
with the least work for each part.

Exit code 0: every part is done.
Exit code 1: a part failed, took too long or found no time left; the table says which and why.
Exit code 3: torch finds no GPU; nothing was measured or written.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import gpu_table

ROOT = Path(__file__).resolve().parents[1]
PARTS = Path(__file__).with_name("gpu_parts.py")
DONE, FAILED, NO_GPU = 0, 1, 3
#: Folders that may have the data sets of the tasks.
DATA = (ROOT.parent / "shared" / "data", ROOT / "shared" / "data")
#: Networks of `scmrl bench engine`, and checkpoints that ship.
CASES = ("urbansound8k_av", "crema_d", "events")
CHECKPOINTS = ("avdigits", "drones", "handsigns", "ndigits-events")
#: Longest time in seconds to describe the machine, and shortest time limit of a part.
MACHINE_S, MIN_PART_S = 60.0, 5.0
#: Longest time in seconds that is spent on ending a part's processes.
ENDING_S = 10.0
#: File that readers find in the folder of a part that took too long.
TIMED_OUT = "timed-out"
#: Seconds in which tests that take too long may write their results, once they are interrupted.
INTERRUPT_S = 10.0
#: Factor of each part's time limit in a trial on a CPU.
TRIAL_FACTOR = 6
#: Environment variable of all processes of a part. Not SCMRL_...: the service takes those for
#: settings, and starts processes without them.
RUN_ID = "GPU_CHECK_RUN"
#: Characters of a failed part's output that are kept.
TAIL = 2000

State = Literal["done", "failed", "timed out", "no time left"]


@dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
        command: Arguments of Python. "{folder}" is an empty folder for what it writes.
        limit_s: Longest time, in seconds.
        read: Makes the result from the command's output and from the folder. Raises ValueError
            where that is a failure, and OSError, KeyError or IndexError where it is incomplete.
        interrupt_s: Seconds that it has after SIGINT, before SIGKILL, if it takes too long; with
            0 it is killed at once.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float
    read: Callable[[str, Path], Any]
    interrupt_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The result of a part, or the reason why it has none."""

    name: str
    state: State
    seconds: float
    result: Any = None
    reason: str = ""


@dataclass
class Report:
    """Outcomes so far, on a machine."""

    machine: Mapping[str, Any]
    device: str
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def code(self) -> int:
        """The exit code: DONE or FAILED."""
        complete = self.outcomes and all(outcome.state == "done" for outcome in self.outcomes)
        return DONE if complete else FAILED

    def write(self, folder: Path) -> None:
        """Write gpu-check.json, and gpu-check.md with its table, into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": dict(self.machine),
            "device": self.device,
            "parts": [asdict(outcome) for outcome in self.outcomes],
        }
        (folder / "gpu-check.json").write_text(json.dumps(content, indent=2) + "\n")
        (folder / "gpu-check.md").write_text(gpu_table.markdown(content))


def main(arguments: Sequence[str]) -> int:
    """Run the parts that the options choose, write the report and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, help="for all parts; default: 10, on a CPU 60")
    parser.add_argument("--data", type=Path, help="default: ../shared/data, where it is there")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the part, too
    end = time.monotonic() + 60 * (options.minutes or (10 if options.device == "cuda" else 60))
    machine = run(Part("machine", (str(PARTS), "machine"), MACHINE_S, read_last_line), MACHINE_S)
    if machine.state != "done":
        print(f"gpu-check: {machine.state}: {machine.reason}", flush=True)
        return FAILED
    if options.device == "cuda" and not machine.result["gpu"]:
        print(
            f"gpu-check: torch {machine.result['torch']} finds no GPU here; nothing was measured. "
            "--device cpu tries the script itself."
        )
        return NO_GPU
    report = Report(machine.result, options.device)
    data = options.data or next((folder for folder in DATA if folder.is_dir()), None)
    parts = make_trial(data) if options.device == "cpu" else make_parts("cuda", data)
    for outcome in run_all(parts, end):
        report.outcomes.append(outcome)
        report.write(options.out)
        reason = f"\n{outcome.reason}" if outcome.reason else ""
        print(f"{outcome.name}: {outcome.state}, {outcome.seconds:.0f} s{reason}", flush=True)
    print(f"wrote {options.out / 'gpu-check.json'} and .md")
    return report.code


def make_parts(device: str, data: Path | None) -> list[Part]:
    """Return the parts, the most important first."""
    parts = [Part("starts", (str(PARTS), "starts", device), 100, read_last_line)]
    command = ("-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider",
               "--junitxml={folder}/tests.xml", "tests/model")  # fmt: skip
    parts.append(Part("tests", command, 200, read_tests, INTERRUPT_S))
    for name in CHECKPOINTS:
        parts.append(accuracy(name, device, 100, data, 60))
    bench = ("-m", "service.cli", "bench")
    options = ("--device", device, "--out", "{folder}")
    for case in CASES:
        # First: the tiles that it finds are cached, and the next part is measured with them.
        command = (str(PARTS), "tiles", case, device, "30")
        parts.append(Part(f"tiles, {case}", command, 80, read_last_line))
        command = (*bench, "engine", *options, "--case", case, "--no-memory", "--seconds", "2.5",
                   "--samples", "32")  # fmt: skip
        parts.append(Part(f"engine, {case}", command, 120, _reader("engine.json")))
    command = (*bench, "service", *options, "--overload", "0", "--seconds", "6")
    service = Part("service", command, 200, _reader("service.json"))
    return [*parts[:-2], service, *parts[-2:]]  # before the smallest network


def make_trial(data: Path | None) -> list[Part]:
    """Return one part of each kind for a CPU, as short as it can be."""
    starts = Part("starts", (str(PARTS), "starts", "cpu"), 100, read_last_line)
    command = ("-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider",
               "--junitxml={folder}/tests.xml", "tests/model/engine/test_bench.py")  # fmt: skip
    tests = Part("tests", command, 60, read_skipped_tests)
    tiles = Part("tiles", (str(PARTS), "tiles", CASES[-1], "cpu", "1"), 60, read_last_line)
    bench = ("-m", "service.cli", "bench")
    options = ("--device", "cpu", "--out", "{folder}")
    command = (*bench, "engine", *options, "--case", CASES[0], "--no-memory", "--batch", "1",
               "--seconds", "0", "--samples", "1")  # fmt: skip
    engine = Part(f"engine, {CASES[0]}", command, 60, _reader("engine.json"))
    command = (*bench, "service", *options, "--overload", "0", "--seconds", "1")
    service = Part("service", command, 100, _reader("service.json"))
    parts = [starts, tests, accuracy(CHECKPOINTS[0], "cpu", 2, data, 60), tiles, engine, service]
    return [replace(part, limit_s=TRIAL_FACTOR * part.limit_s) for part in parts]


def accuracy(checkpoint: str, device: str, clips: int, data: Path | None, limit_s: float) -> Part:
    """Return the part that measures a checkpoint on a device and on the CPU."""
    command = [str(PARTS), "accuracy", checkpoint, device, str(clips)]
    command += [str(data)] if data else []
    return Part(f"accuracy of {checkpoint}", tuple(command), limit_s, read_last_line)


def run_all(parts: Sequence[Part], end: float) -> Iterator[Outcome]:
    """Run the parts one after the other until `end` of time.monotonic(); yield each outcome."""
    for part in parts:
        remaining_s = end - time.monotonic()
        if remaining_s < MIN_PART_S:
            yield Outcome(part.name, "no time left", 0.0)
        else:
            yield run(part, min(part.limit_s, remaining_s))


def run(part: Part, limit_s: float) -> Outcome:
    """Run a part for at most `limit_s` seconds, and end all processes that it leaves."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "out").mkdir()
        out = str(folder / "out")
        command = [sys.executable, *(word.replace("{folder}", out) for word in part.command)]
        with (folder / "log").open("w+b") as log:
            code = _run_to_end(command, log, limit_s, part.interrupt_s)
            log.seek(0)
            printed = log.read().decode(errors="replace")
        seconds = time.monotonic() - started
        tail = printed[-TAIL:].strip()
        if code is None:
            (folder / "out" / TIMED_OUT).touch()
        result, problem = None, ""
        try:
            # Also of a command that failed or took too long: it may have written its result before.
            result = part.read(printed, folder / "out")
        except (OSError, ValueError, KeyError, IndexError) as exc:
            problem = f"{type(exc).__name__}: {exc}"
    if code is None:
        reason = f"{tail}\nended after {limit_s:.0f} s"
        return Outcome(part.name, "timed out", seconds, result, reason.strip())
    if code:
        return Outcome(part.name, "failed", seconds, result, tail or f"exit code {code}")
    return Outcome(part.name, "failed" if problem else "done", seconds, result, problem)


def _run_to_end(command: Sequence[str], log: Any, limit_s: float, interrupt_s: float) -> int | None:
    """Run a command; return its exit code, or None where it took longer than `limit_s`.

    It is then killed, or interrupted first if it has `interrupt_s` seconds to end.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    run_id = uuid.uuid4().hex
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path, RUN_ID: run_id},
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        if interrupt_s:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(interrupt_s)
        return None
    finally:
        process.kill()
        process.wait()
        _end_processes(run_id)


def _end_processes(run_id: str) -> None:
    """Kill the processes of a part, and those that they start meanwhile."""
    end = time.monotonic() + ENDING_S
    while (remaining := processes_of(run_id)) and time.monotonic() < end:
        for pid in remaining:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def processes_of(run_id: str) -> list[int]:
    """Return the living processes of a part, by their environment.

    A benchmark's servers have sessions of their own, and another parent once the benchmark has
    crashed: neither the session nor the parent finds them.
    """
    variable = f"{RUN_ID}={run_id}".encode()
    processes = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            if variable in environment.read_bytes().split(b"\0"):
                processes.append(int(environment.parent.name))
    return processes


def read_last_line(printed: str, _: Path) -> Any:
    """Return the JSON of the last line that a part printed."""
    return json.loads(printed.strip().splitlines()[-1])


def _reader(name: str) -> Callable[[str, Path], Any]:
    """Return a reader of the results in a benchmark's file."""
    return lambda _, folder: json.loads((folder / name).read_text())["results"]


def read_skipped_tests(printed: str, folder: Path) -> dict[str, Any]:
    """Return how many tests passed, failed and were skipped, and the names of the failed ones."""
    root = ElementTree.parse(folder / "tests.xml").getroot()
    cases = list(root.iter("testcase"))
    if (folder / TIMED_OUT).exists():
        cases = cases[:-1]  # the test that was interrupted looks like one that passed
    failed = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failed) - skipped
    return {"passed": passed, "failed": failed, "skipped": skipped}


def read_tests(printed: str, folder: Path) -> dict[str, Any]:
    """Return `read_skipped_tests`. Raises ValueError where no test ran."""
    counts = read_skipped_tests(printed, folder)
    if not counts["passed"] and not counts["failed"]:
        raise ValueError(f"no test ran; {counts['skipped']} were skipped")
    return counts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
