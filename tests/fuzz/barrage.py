"""Send mutated files to a running service, and collect unacceptable responses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.fuzz.mutations import mutated

CLASSIFY = "/v1/classify"
#: Acceptable statuses for a damaged file: it can be read, is rejected, or takes too long.
ALLOWED = frozenset({200, 413, 415, 422, 504})
_PICTURES = {".png", ".jpg", ".webp", ".bmp", ".tiff", ".gif", ".avif"}
_EVENTS = {".npz", ".raw", ".aedat4", ".aedat", ".bs2"}
_SOUNDS = {".wav", ".flac", ".ogg", ".mp3", ".m4a"}


@dataclass(frozen=True)
class Seed:
    """A file to start from."""

    name: str
    data: bytes

    def form(self, data: bytes) -> dict[str, tuple[str, bytes]]:
        """Return the form with `data` in the upload field for this kind of file."""
        suffix = Path(self.name).suffix
        field_ = "frames" if suffix in _PICTURES else "audio" if suffix in _SOUNDS else "clip"
        if self.name.startswith("series"):
            field_ = "tactile"
        elif suffix in _EVENTS:
            field_ = "audio_events" if self.name.startswith("cochlea") else "events"
        return {field_: (self.name, data)}


@dataclass
class Outcome:
    """`statuses`: number of responses by status. `wrong`: messages about unacceptable responses.
    `slowest`: seconds of the slowest response."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0


def seeds(*folders: Path) -> list[Seed]:
    """Return the files of those of the folders that exist."""
    return [
        Seed(path.name, path.read_bytes())
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix != ".md" and path.stat().st_size < 1 << 20
    ]


def barrage(
    client: httpx.Client, files: Sequence[Seed], numbers: range, at_once: int, longest_s: float
) -> Iterator[Outcome]:
    """Send the mutations with these seeds, `at_once` at a time; yield the outcome after each.

    A response that takes longer than `longest_s` counts as a hang.
    """
    datas = [file.data for file in files]
    outcome = Outcome()

    def send(number: int) -> tuple[int, str, int | str, float]:
        index, data = mutated(datas, number)
        began = time.monotonic()
        try:
            response = client.post(CLASSIFY, files=files[index].form(data), timeout=2 * longest_s)
            status: int | str = response.status_code
        except httpx.HTTPError as exc:
            status = repr(exc)
        return number, files[index].name, status, time.monotonic() - began

    with ThreadPoolExecutor(at_once) as pool:
        for number, name, status, took in pool.map(send, numbers):
            if isinstance(status, int):
                outcome.statuses[status] += 1
            if status not in ALLOWED:
                outcome.wrong.append(f"mutation {number} of {name}: {status}")
            elif took > longest_s:
                outcome.wrong.append(f"mutation {number} of {name}: {took:.1f} s")
            outcome.slowest = max(outcome.slowest, took)
            yield outcome
