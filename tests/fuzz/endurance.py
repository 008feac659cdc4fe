"""`python -m tests.fuzz.endurance`: send ten thousand good clips, and measure memory growth.

Passes if all were answered and resident memory grew by less than 2 % after the first tenth.
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
MAX_GROWTH = 0.02


def endure(
    count: Annotated[int, typer.Option(min=10, help="Clips to send.")] = 10_000,
    at_once: Annotated[int, typer.Option(min=1, help="Concurrent clients.")] = 4,
) -> None:
    """Start a service, send it good clips, and measure its resident memory."""
    clips = [path.read_bytes() for path in CLIPS]
    with servers.run_scmrl(ROOT / "weights" / "avdigits", SCMRL_LOG_LEVEL="error") as server:
        with httpx.Client(timeout=60) as client, ThreadPoolExecutor(at_once) as pool:

            def post(number: int) -> int:
                form = {"clip": clips[number % len(clips)]}
                return client.post(
                    server.url, files=form, data={"attention": "overlay"}
                ).status_code

            began, first, failed = time.monotonic(), 0, 0
            for count_sent, status in enumerate(pool.map(post, range(count)), 1):
                failed += status != 200
                if count_sent == count // 10:
                    first = resident(server.pid).service_mib
                if count_sent % 1000 == 0:
                    now = resident(server.pid).service_mib
                    typer.echo(f"{count_sent} clips, {time.monotonic() - began:.0f} s, {now} MiB")
        last = resident(server.pid).service_mib
    typer.echo(
        f"{first} MiB after {count // 10} clips, {last} MiB after {count}; {failed} not answered"
    )
    raise typer.Exit(1 if failed or last > first * (1 + MAX_GROWTH) else 0)


if __name__ == "__main__":
    sys.exit(typer.run(endure))
