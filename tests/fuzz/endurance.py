"""`python -m tests.fuzz.endurance`: ten thousand good clips in a row, and what memory they leave.

Passes where every one was answered and resident memory grew by less than 2 % after the first
tenth of them.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import httpx
import typer

from service.bench import servers
from tests.conftest import ROOT
from tests.fuzz.resident import resident

CLIPS = sorted((ROOT / "tests" / "data" / "clips").glob("*.webm"))
GROWTH = 0.02


def endure(
    count: Annotated[int, typer.Option(min=10, help="Clips to send.")] = 10_000,
    at_once: Annotated[int, typer.Option(min=1, help="Clients that send them.")] = 4,
) -> None:
    """Send good clips to a service of its own and watch its resident memory."""
    clips = [path.read_bytes() for path in CLIPS]
    with servers.run_scmrl(ROOT / "weights" / "avdigits", SCMRL_LOG_LEVEL="error") as server:
        with httpx.Client(timeout=60) as client, ThreadPoolExecutor(at_once) as pool:

            def ask(number: int) -> int:
                form = {"clip": clips[number % len(clips)]}
                return client.post(
                    server.url, files=form, data={"attention": "overlay"}
                ).status_code

            began, first, refused = time.monotonic(), 0, 0
            for done, status in enumerate(pool.map(ask, range(count)), 1):
                refused += status != 200
                if done == count // 10:
                    first = resident(server.pid).service_mib
                if done % 1000 == 0:
                    now = resident(server.pid).service_mib
                    typer.echo(f"{done} clips, {time.monotonic() - began:.0f} s, {now} MiB")
        last = resident(server.pid).service_mib
    typer.echo(
        f"{first} MiB after {count // 10} clips, {last} MiB after {count}; {refused} refused"
    )
    raise typer.Exit(1 if refused or last > first * (1 + GROWTH) else 0)


if __name__ == "__main__":
    sys.exit(typer.run(endure))
