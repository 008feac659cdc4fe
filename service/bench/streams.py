"""Live sessions in real time against a running service, beside clients that misbehave."""

from __future__ import annotations

import asyncio
import heapq
import io
import json
import os
import random
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import aiohttp
import cv2
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from model.media.reader import read_clip
from service.bench import cpu_time
from service.bench.clips import MIX, render_clip

_HEADER = struct.Struct("<BBHIQ")
_PICTURE, _SOUND = 1, 2
#: Pictures and pieces of sound a second, and the rate of sound in Hz.
_PICTURES_PER_S, _SOUNDS_PER_S, _RATE = 15, 50, 16_000
_NS = 1_000_000_000
#: Seconds between two readings of memory, and between two uploads.
_READING_S, _UPLOAD_S = 5.0, 2.0
#: Seconds after which a client that misbehaves connects again.
_RECONNECT_S = 1.0
_START = json.dumps(
    {"type": "start", "inputs": [{"field": "frames"}, {"field": "audio", "sample_rate": _RATE}]}
)


@dataclass
class SessionLoad:
    """The measurements of one session.

    `window_s`: of its answers. `behind_ms`: of each answer, by the service. `lag_ms`: from the
    capture of the newest message of the window to the receipt of the answer. `stale_ms`: from there
    to the receipt of the next answer, the age of the newest answer at its oldest. `closed`: why the
    service ended it, or None.
    """

    window_s: float = 0.0
    behind_ms: list[float] = field(default_factory=list)
    lag_ms: list[float] = field(default_factory=list)
    stale_ms: list[float] = field(default_factory=list)
    skipped: int = 0
    problems: dict[str, int] = field(default_factory=dict)
    closed: str | None = None


@dataclass
class StreamsLoad:
    """A load of live sessions.

    `memory_mib`: resident memory of the service's process and proportional memory of all its
    processes, at each reading. `cpu_s`: by kind of process or thread. `late_ms`: how late the
    clients themselves sent, at the 99th percentile. `upload_ms`: latency of uploads beside.
    `misbehaved`: how clients that misbehave were ended, by what they did and the close code.
    """

    sessions: list[SessionLoad]
    seconds: float
    memory_mib: list[tuple[float, float]] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)
    late_ms: float = 0.0
    upload_ms: list[float] = field(default_factory=list)
    uploads_failed: int = 0
    misbehaved: dict[str, int] = field(default_factory=dict)

    def memory_growth(self, column: int) -> float:
        """Return the growth of memory from the first to the last tenth of the readings, as a
        share."""
        values = [reading[column] for reading in self.memory_mib]
        tenth = max(1, len(values) // 10)
        return float(np.mean(values[-tenth:]) / np.mean(values[:tenth]) - 1)


@dataclass(frozen=True)
class _Media:
    """A clip that is sent again and again: JPEG files and pieces of sound."""

    pictures: list[bytes]
    sounds: list[bytes]

    def messages(self, first_ns: int) -> Iterator[tuple[int, bytes]]:
        """Yield messages with the times at which they are captured, without end."""
        pictures = (
            (first_ns + n * _NS // _PICTURES_PER_S, _PICTURE, 0, n,
             self.pictures[n % len(self.pictures)]) for n in count()
        )  # fmt: skip
        sounds = (
            (first_ns + n * _NS // _SOUNDS_PER_S, _SOUND, 1, n, self.sounds[n % len(self.sounds)])
            for n in count()
        )
        yield from _merge(pictures, sounds)


async def run(url: str, pid: int, sessions: int, seconds: float, warm_up_s: float) -> StreamsLoad:
    """Send to a service for `seconds`, after `warm_up_s` of the same load.

    `url`: of POST /v1/classify. `pid`: of the service.
    """
    address = url.replace("http", "ws", 1).replace("/classify", "/stream")
    clip = await asyncio.to_thread(render_clip, MIX[0][0])
    media = await asyncio.to_thread(_media, clip)
    load = StreamsLoad([SessionLoad() for _ in range(sessions)], seconds)
    begin = time.monotonic() + warm_up_s
    late: list[float] = []
    tasks = [
        asyncio.create_task(_session(address, media, number / sessions, begin, session, late))
        for number, session in enumerate(load.sessions)
    ]
    tasks += [
        asyncio.create_task(_repeat(address, media, name, behaviour, load.misbehaved))
        for name, behaviour in _MISBEHAVIOURS.items()
    ]
    tasks.append(asyncio.create_task(_uploads(url, clip, begin, load)))
    await asyncio.sleep(warm_up_s)
    before = cpu_time.read_cpu_s(pid)
    while time.monotonic() < begin + seconds:
        load.memory_mib.append(read_memory_mib(pid))
        await asyncio.sleep(min(_READING_S, max(0.0, begin + seconds - time.monotonic())))
    after = cpu_time.read_cpu_s(pid)
    load.cpu_s = {kind: after[kind] - before[kind] for kind in after}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    load.late_ms = float(np.percentile(late, 99)) if late else 0.0
    return load


def read_memory_mib(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process, and the proportional one of it and all below it."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    total = sum(_proportional_kib(process) for process in _tree(pid))
    return resident * os.sysconf("SC_PAGE_SIZE") / 2**20, total / 1024


def _tree(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(stat[1])
    tree = [pid]
    for process in tree:
        tree += [child for child, parent in parents.items() if parent == process]
    return tree


def _proportional_kib(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def _media(clip: bytes) -> _Media:
    decoded = read_clip(clip, 30)
    assert decoded.pictures is not None
    assert decoded.sound is not None
    pictures = [cv2.imencode(".jpg", frame[:, :, ::-1])[1].tobytes()
                for frame in decoded.pictures.frames]  # fmt: skip
    mono = decoded.sound.samples.mean(0)
    step = decoded.sound.sample_rate / _RATE
    samples = np.interp(np.arange(0, len(mono), step), np.arange(len(mono)), mono)
    pcm = (samples * 32767).astype("<i2").tobytes()
    piece = 2 * _RATE // _SOUNDS_PER_S
    sounds = [pcm[at : at + piece] for at in range(0, len(pcm) - piece + 1, piece)]
    return _Media(pictures, sounds)


def _merge(
    first: Iterator[tuple[int, int, int, int, bytes]],
    second: Iterator[tuple[int, int, int, int, bytes]],
) -> Iterator[tuple[int, bytes]]:
    """Yield the messages of two inputs in order of time."""
    for time_ns, kind, number, sequence, payload in heapq.merge(
        first, second, key=lambda message: message[0]
    ):
        yield time_ns, _HEADER.pack(kind, 0, number, sequence % 2**32, time_ns) + payload


async def _session(
    address: str, media: _Media, phase: float, begin: float, load: SessionLoad, late: list[float]
) -> None:
    """Run one session, and count the messages that arrive after `begin` (time.monotonic())."""
    await asyncio.sleep(phase)  # cameras do not take their pictures at the same time
    try:
        async with _connect(address) as socket:
            await socket.send(_START)
            load.window_s = json.loads(await socket.recv())["window_s"]
            sending = asyncio.create_task(_send(socket, media, late, begin))
            try:
                await _receive(socket, begin, load)
            finally:
                sending.cancel()
    except ConnectionClosed as exc:
        load.closed = str(exc)


async def _send(socket: ClientConnection, media: _Media, late: list[float], begin: float) -> None:
    for at_ns, message in media.messages(time.monotonic_ns()):
        wait_s = (at_ns - time.monotonic_ns()) / _NS
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        if time.monotonic() > begin and len(late) < 1_000_000:
            late.append((time.monotonic_ns() - at_ns) / 1e6)
        await socket.send(message)


async def _receive(socket: ClientConnection, begin: float, load: SessionLoad) -> None:
    before_ns: int | None = None
    async for text in socket:
        message = json.loads(text)
        now_ns = time.monotonic_ns()
        if time.monotonic() < begin:
            continue
        if message["type"] == "problem":
            _count(load.problems, message["error"])
            continue
        end_ns = message["window"]["end_ns"]
        load.behind_ms.append(message["behind_ms"])
        load.lag_ms.append((now_ns - end_ns) / 1e6)
        if before_ns is not None:
            load.stale_ms.append((now_ns - before_ns) / 1e6)
        before_ns = end_ns
        load.skipped += message["skipped"]


async def _uploads(url: str, clip: bytes, begin: float, load: StreamsLoad) -> None:
    """Post a clip every other second."""
    async with aiohttp.ClientSession() as client:
        while True:
            started = time.monotonic()
            form = aiohttp.FormData()
            form.add_field("clip", io.BytesIO(clip), filename="clip.webm")
            try:
                async with client.post(url, data=form) as response:
                    await response.read()
                    is_answered = response.status == 200
            except aiohttp.ClientError:
                is_answered = False
            if started >= begin:
                if is_answered:
                    load.upload_ms.append(1000 * (time.monotonic() - started))
                else:
                    load.uploads_failed += 1
            await asyncio.sleep(_UPLOAD_S)


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _connect(address: str, max_queue: int = 16) -> connect:
    return connect(
        address, compression=None, max_size=None, max_queue=max_queue, ping_interval=None
    )


async def _repeat(
    address: str,
    media: _Media,
    name: str,
    behave: Callable[[str, _Media], Awaitable[None]],
    ends: dict[str, int],
) -> None:
    """Misbehave again and again; count how it ends."""
    while True:
        try:
            await behave(address, media)
        except ConnectionClosed as exc:
            frame = exc.rcvd
            _count(ends, f"{name}: {frame.code if frame else 'cut off'}")
        except (OSError, WebSocketException) as exc:
            _count(ends, f"{name}: {type(exc).__name__}")
        await asyncio.sleep(_RECONNECT_S)


async def _never_read(address: str, media: _Media) -> None:
    """Send as others do, ask for large answers often, and read none."""
    start = json.loads(_START) | {"attention": "overlay", "hop_s": 0.1}
    async with _connect(address, max_queue=1) as socket:
        await socket.send(json.dumps(start))
        await socket.recv()
        for at_ns, message in media.messages(time.monotonic_ns()):
            await asyncio.sleep(max(0.0, (at_ns - time.monotonic_ns()) / _NS))
            await socket.send(message)


async def _send_garbage(address: str, media: _Media) -> None:
    """Send bytes that are no packets of H.264, parts of files, and finally an invalid message."""
    inputs = [{"field": "frames", "format": random.choice(("h264", "jpeg"))}]
    async with _connect(address) as socket:
        await socket.send(json.dumps({"type": "start", "inputs": inputs}))
        for number in range(100):
            payload = b"\0\0\1\x65" + random.choice(media.pictures)[random.randrange(2000) :]
            header = _HEADER.pack(_PICTURE, 0, 0, number, time.monotonic_ns())
            await socket.send(header + payload)
            await asyncio.sleep(0.02)
        await socket.send(random.randbytes(100))
        async for _ in socket:
            pass


async def _stall(address: str, media: _Media) -> None:
    """Begin in order, and send nothing more."""
    async with _connect(address) as socket:
        await socket.send(_START)
        async for _ in socket:
            pass


_MISBEHAVIOURS: dict[str, Callable[[str, _Media], Awaitable[None]]] = {
    "never reads": _never_read,
    "sends garbage": _send_garbage,
    "stalls": _stall,
}
