"""`python -m tests.attacks`: latency of good clips and of /healthz, without and beside each attack.

A service is started for each attack, whose clients are a process of lower priority. Good clips
arrive twice a second, /healthz is asked ten times a second, each on a connection of its own.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

import numpy as np
import typer

from service.bench import servers
from tests.attacks.attack import ATTACKS
from tests.attacks.requests import GOOD, clip_request
from tests.conftest import ROOT
from tests.fuzz.resident import resident

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CLIPS_PER_S, HEALTH_PER_S = 2, 10
#: A response that takes longer counts as lost.
TIMEOUT_S = 30.0


@dataclass
class Latencies:
    """Latencies in ms of the requests that were answered with 200, and how many were not."""

    answered: list[float] = field(default_factory=list)
    lost: int = 0

    def __str__(self) -> str:
        if not self.answered:
            return f"none answered, {self.lost} lost"
        p50, p99 = np.percentile(self.answered, [50, 99])
        lost = f", {self.lost} of {len(self.answered) + self.lost} lost" if self.lost else ""
        return f"{p50:.0f} / {p99:.0f}{lost}"


async def _ask(port: int, request: bytes, latencies: Latencies) -> None:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request.replace(b"Host: x", b"Host: x\r\nConnection: close", 1))
                response = await reader.read()
            finally:
                writer.close()
    except OSError:  # also TimeoutError
        response = b""
    if response.startswith(b"HTTP/1.1 200"):
        latencies.answered.append(1000 * (time.perf_counter() - began))
    else:
        latencies.lost += 1


async def _arrivals(port: int, request: bytes, per_s: float, seconds: float) -> Latencies:
    latencies = Latencies()
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(round(per_s * seconds)):
            await asyncio.sleep(max(0.0, began + number / per_s - time.perf_counter()))
            tasks.create_task(_ask(port, request, latencies))
    return latencies


async def measure(port: int, seconds: float) -> tuple[Latencies, Latencies]:
    """Return the latencies of good clips and of /healthz over some seconds."""
    request = clip_request(GOOD.read_bytes()).replace(
        b"Host: x", b"Host: x\r\nConnection: close", 1
    )
    clips, health = await asyncio.gather(
        _arrivals(port, request, CLIPS_PER_S, seconds),
        _arrivals(port, HEALTH, HEALTH_PER_S, seconds),
    )
    return clips, health


def run(
    names: Annotated[list[str] | None, typer.Argument(help="Attacks; all by default.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of each measurement.")] = 20.0,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each attack.")] = 2,
    port: Annotated[
        list[int] | None, typer.Option(help="Services that run already, measured in turns.")
    ] = None,
) -> None:
    """Measure good clips beside each attack."""
    for name in names or ATTACKS:
        if name not in ATTACKS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(ATTACKS)}")
        if port:
            for one in port:
                _print(f"{name} :{one}", _rounds(name, one, seconds, rounds))
            continue
        with servers.run_scmrl(ROOT / "weights" / "avdigits", SCMRL_LOG_LEVEL="error") as server:
            asyncio.run(measure(urlsplit(server.url).port or 80, 3))
            before = resident(server.pid).service_mib
            _print(name, _rounds(name, urlsplit(server.url).port or 80, seconds, rounds))
            typer.echo(f"  resident {before} MiB before, {resident(server.pid).service_mib} after")


def _rounds(
    name: str, port: int, seconds: float, rounds: int
) -> Sequence[tuple[Latencies, Latencies]]:
    """Return clips and /healthz without the attack, and with it, over all rounds."""
    quiet, attacked = (Latencies(), Latencies()), (Latencies(), Latencies())
    for _ in range(rounds):
        _add(quiet, asyncio.run(measure(port, seconds)))
        command = [
            "nice",
            "-n",
            "10",
            sys.executable,
            "-m",
            "tests.attacks.attack",
            name,
            str(port),
        ]
        attacker = subprocess.Popen([*command, str(seconds + 25)], cwd=ROOT)
        time.sleep(3)  # it imports, and opens its connections
        _add(attacked, asyncio.run(measure(port, seconds)))
        if attacker.poll() is not None:
            raise RuntimeError(f"the attack {name} ended early, with {attacker.returncode}")
        attacker.kill()
        attacker.wait()
        time.sleep(2)
    return quiet, attacked


def _add(total: tuple[Latencies, Latencies], measured: tuple[Latencies, Latencies]) -> None:
    for one, other in zip(total, measured, strict=True):
        one.answered += other.answered
        one.lost += other.lost


def _print(title: str, measured: Sequence[tuple[Latencies, Latencies]]) -> None:
    (clips, health), (attacked_clips, attacked_health) = measured
    typer.echo(
        f"{title}: clips p50 / p99 ms quiet {clips}, attacked {attacked_clips}; "
        f"healthz quiet {health}, attacked {attacked_health}"
    )


if __name__ == "__main__":
    typer.run(run)
