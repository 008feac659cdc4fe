"""`python -m tests.fuzz`: send tens of thousands of damaged files to the real service.

Passes if no file got a 500 or no answer, and then the service is ready, answers a good clip as
before, has as many processes as before, left no file, and its resident memory has not grown.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import httpx
import typer

from service.bench import servers
from service.bench.servers import Server
from tests.conftest import ROOT
from tests.fuzz import event_files, series_files
from tests.fuzz.barrage import CLASSIFY, Outcome, Seed, barrage, seeds
from tests.fuzz.resident import Resident, resident

SEEDS = (ROOT / "tests" / "data" / "seeds", ROOT / "tests" / "data" / "clips",
         ROOT.parent / "shared" / "media")  # fmt: skip
GOOD = ROOT / "tests" / "data" / "clips" / "digit-7.webm"
#: Maximum growth of resident memory, as a fraction of that after the first files.
MAX_GROWTH = 0.05


def fuzz(
    count: Annotated[int, typer.Option(min=1, help="Mutated files to send.")] = 20_000,
    first: Annotated[int, typer.Option(min=0, help="Seed of the first mutated file.")] = 0,
    at_once: Annotated[int, typer.Option(min=1, help="Concurrent clients.")] = 6,
    events: Annotated[bool, typer.Option(help="Send files of events, to random weights.")] = False,
    series: Annotated[bool, typer.Option(help="Send values over time, to random weights.")] = False,
) -> None:
    """Start a service, send it mutated files, and check its state afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        if series:
            files = series_files.seeds()
            weights, good = series_files.save_checkpoint(Path(scratch) / "tactile"), files[0]
        elif events:
            files = event_files.seeds(Path(scratch))
            weights, good = event_files.save_checkpoint(Path(scratch) / "digits"), files[-2]
        else:
            files = seeds(*SEEDS)
            weights, good = ROOT / "weights" / "avdigits", Seed(GOOD.name, GOOD.read_bytes())
        failures = _fuzz(weights, files, good, range(first, first + count), at_once)
    for failure in failures:
        typer.echo(failure, err=True)
    raise typer.Exit(1 if failures else 0)


def _fuzz(
    weights: Path, files: Sequence[Seed], good: Seed, numbers: range, at_once: int
) -> list[str]:
    """Send mutations of `files` to a service of this checkpoint; return what was wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {"TMPDIR": scratch, "SCMRL_LOG_LEVEL": "error", "SCMRL_MAX_WAIT_S": "60"}
        with servers.run_scmrl(weights, **environment) as server:
            failures = _run(server, files, good, numbers, at_once)
        leftover = [path for path in Path(scratch).rglob("*") if path.is_file()]
    return failures + [f"a file was left: {path}" for path in leftover]


def _run(
    server: Server, files: Sequence[Seed], good: Seed, numbers: range, at_once: int
) -> list[str]:
    with httpx.Client(base_url=server.url.removesuffix(CLASSIFY), timeout=60) as client:
        expected = _answer(client, good)
        # Libraries load their tables at first use: measure after some files of every kind.
        warm = min(500, len(numbers) // 4)
        before = Resident(0, 0)
        began = time.monotonic()
        outcome = Outcome()
        for count_sent, outcome in enumerate(barrage(client, files, numbers, at_once, 30.0), 1):
            if count_sent == warm:
                before = resident(server.pid)
            if count_sent % 1000 == 0 or count_sent == len(numbers):
                typer.echo(
                    f"{count_sent} files, {time.monotonic() - began:.0f} s, answers "
                    f"{dict(sorted(outcome.statuses.items()))}, slowest {outcome.slowest:.1f} s, "
                    f"resident {resident(server.pid).service_mib} MiB"
                )
        failures = list(outcome.wrong)
        time.sleep(2)
        after = resident(server.pid)
        typer.echo(
            f"resident memory {before.service_mib} MiB after {warm} files, {after.service_mib} at "
            f"the end; {before.processes} and {after.processes} processes"
        )
        if after.service_mib > before.service_mib * (1 + MAX_GROWTH):
            failures.append("resident memory has grown")
        if after.processes > before.processes + 1:
            failures.append("there are more processes than before")
        if client.get("/readyz").status_code != 200:
            failures.append("the service is not ready any more")
        if _answer(client, good) != expected:
            failures.append("the answer to a good clip has changed")
        return failures


def _answer(client: httpx.Client, good: Seed) -> list[float]:
    answer = client.post(CLASSIFY, files=good.form(good.data)).json()
    return [round(entry["probability"], 5) for entry in answer["probabilities"]]


if __name__ == "__main__":
    sys.exit(typer.run(fuzz))
