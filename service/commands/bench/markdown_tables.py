"""Markdown tables of the files that benchmarks write with `--out`.

In a page the line `<!-- bench: NAME -->` stands above the table NAME.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

#: A marker, and the table below it, if there is one already.
_PLACE = re.compile(r"<!-- bench: ([\w.]+) -->\n(\n?)((?:\|.*(?:\n|\Z))*)")
#: What pages call the random networks, and the paths.
_NETWORKS = {
    "urbansound8k_av": "64 channels", "crema_d": "256 channels", "events": "events, T = 16, 28 x 28"
}  # fmt: skip
_PATHS = {"fused-int8": "int8", "fused-graphs": "fused", "fused-half-graphs": "float16"}

Rows = Iterable[Sequence[str]]


def tables_of(folder: Path) -> dict[str, str]:
    """Return the tables, by name, of the benchmarks whose files are in a folder.

    Raises FileNotFoundError where it has none of them, ValueError for a file that is not one.
    """
    results = {}
    for path in sorted(folder.glob("*.json")):
        if path.stem in _FILES:
            try:
                results[path.stem] = json.loads(path.read_text())["results"]
            except (ValueError, KeyError, TypeError) as exc:
                raise ValueError(f"{path} is no result of scmrl bench") from exc
    if not results:
        raise FileNotFoundError(f"{folder} has no result of scmrl bench")
    made = {}
    for name, (needed, make) in _TABLES.items():
        if all(file in results for file in needed):
            try:
                made[name] = _markdown(make(*(results[file] for file in needed)))
            except (LookupError, TypeError, StopIteration) as exc:
                files = ", ".join(str(folder / f"{file}.json") for file in needed)
                raise ValueError(f"{files}: no table {name}: {exc!r}") from exc
    return made


def fill(text: str, tables: Mapping[str, str]) -> str:
    """Return the text of a page with each table below its marker.

    Raises ValueError for a marker whose table is not there.
    """

    def replace(place: re.Match[str]) -> str:
        name, blank, table = place.groups()
        if name not in tables:
            raise ValueError(f"no file has the table {name}")
        return f"<!-- bench: {name} -->\n{blank}{tables[name]}" + "\n" * (not table)

    return _PLACE.sub(replace, text)


def names_in(text: str) -> set[str]:
    """Return the names of the tables of a page."""
    return {name for name, _, _ in _PLACE.findall(text)}


def _markdown(rows: Rows) -> str:
    """Return a table whose first row is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _engine_paths(engine: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Yield samples/s and speed-ups of each network, by batch and path."""
    yield "network", "batch", *map(_path, _timings(engine["cases"][0]["timings"], 0))
    for name, measured in _networks(engine):
        batches = dict.fromkeys(timing["batch"] for timing in measured["timings"])
        for index, batch in enumerate(batches):
            cells = [
                f"{timing['samples_s']:,.0f}"
                + f" ({timing['ratio']:.1f}x)" * (timing["path"] != "plain")
                for timing in _timings(measured["timings"], index).values()
            ]
            yield name if index == 0 else "", str(batch), *cells


def _engine_parity(engine: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Yield what differs from the plain network, by network and fused path."""
    yield "network", "path", "samples", "spikes, equal input", "token values", "answers"
    for name, measured in _networks(engine):
        for path, parity in measured["parity"].items():
            yield (
                name, _path(path), str(parity["samples"]),
                f"{parity['flips']:,} of {parity['spikes'] / 1e6:.1f} M",
                f"{parity['token_flips']:,} of {parity['tokens'] / 1e6:.1f} M",
                str(parity["classes"]),
            )  # fmt: skip


def _networks(engine: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for case in engine["cases"]:
        yield _NETWORKS.get(case["case"], case["case"]), case
    if clips := engine["clips"]:
        yield f"*{clips['checkpoint'].split()[0]}*, a trained network", clips


def _timings(timings: Sequence[Mapping[str, Any]], index: int) -> dict[str, Mapping[str, Any]]:
    """Return the timings of the batch with an index, by path."""
    batch = list(dict.fromkeys(timing["batch"] for timing in timings))[index]
    return {timing["path"]: timing for timing in timings if timing["batch"] == batch}


def _path(path: str) -> str:
    return _PATHS.get(path, path)


def _service_loads(service: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Yield throughput and latencies of the service by load."""
    yield "offered", "answered", "p50", "p95", "p99", "not answered"
    peak = service["scmrl"][0]["answered_per_s"]
    for load in service["scmrl"]:
        rate = load["offered_per_s"]
        offered = (
            "closed loop (peak throughput)" if rate is None
            else f"{rate:.1f} clips/s ({100 * rate / peak:.0f} % of the peak)"
        )  # fmt: skip
        failed = ", ".join(f"{count} x {status}" for status, count in load["failed"].items())
        yield (
            offered, f"{load['answered_per_s']:.1f} clips/s",
            *(f"{load[name]:.0f} ms" for name in ("p50_ms", "p95_ms", "p99_ms")), failed or "none",
        )  # fmt: skip


def _service_cpu(service: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Yield CPU milliseconds a clip by process or thread, of the kinds that used any."""
    loads = service["cpu_ms"]
    yield "process or thread", *loads
    for kind in next(iter(loads.values())):
        used = [milliseconds[kind] for milliseconds in loads.values()]
        if max(used) >= 0.05:
            yield kind, *(f"{value:.1f} ms" for value in used)


def _service_litserve(service: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Yield LitServe's throughput by set-up, and the medians of both servers at its fastest."""
    compared = {name: each for name, each in service.items() if name.startswith("LitServe, ")}
    tried = next(iter(compared.values()))["tried"]
    yield (
        "LitServe's network", *(_setup(setup) for setup in tried),
        "peak in turns, then ours (median ratio)", "p99, then ours",
    )  # fmt: skip
    for name, each in compared.items():
        (its_peak, its_steady), (peak, steady) = _medians(each["litserve"]), _medians(each["scmrl"])
        yield (
            name.removeprefix("LitServe, ").removesuffix(" network"),
            *(f"{setup['answered_per_s']:.1f} clips/s" for setup in each["tried"]),
            f"{its_peak['answered_per_s']:.1f}, {peak['answered_per_s']:.1f} clips/s "
            f"({each['speedup']:.2f}x)",
            f"{its_steady['p99_ms']:.0f}, {steady['p99_ms']:.0f} ms at "
            f"{its_steady['offered_per_s']:.1f} clips/s",
        )  # fmt: skip


def _medians(rounds: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, float]]:
    """Return the median throughput, rate and p99 of each load over the rounds."""
    names = ("answered_per_s", "offered_per_s", "p99_ms")
    return [
        {name: median(load[name] or 0.0 for load in loads) for name in names}
        for loads in zip(*rounds, strict=True)
    ]


def _setup(setup: Mapping[str, int]) -> str:
    workers, threads = setup["workers"], setup["threads"]
    return f"{workers} worker{'s' * (workers > 1)} of {threads} thread{'s' * (threads > 1)}"


def _decode_frames(decode: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Yield the milliseconds of four frames, of all and of key frames, by clip."""
    yield (
        "clip", "all to RGB", "all decoded", "four frames", "speed-up", "four frames, lone request",
        "speed-up, lone request", "key frames",
    )  # fmt: skip
    for clip in decode["frames"]:
        cells = []
        for way in ("four_ms", "four_all_cores_ms"):
            ratios = (f"{clip[every] / clip[way]:.1f}" for every in ("all_rgb_ms", "all_ms"))
            cells += [f"{clip[way]:.0f} ms", " and ".join(ratios)]
        whole = (f"{clip[way]:.0f} ms" for way in ("all_rgb_ms", "all_ms"))
        yield clip["clip"], *whole, *cells, f"{clip['key_frames_ms']:.0f} ms"


def _decode_processes(decode: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Yield the milliseconds of a request's decoding, in this process and in a sandboxed one."""
    yield "clip", "in this process", "in a sandboxed one"
    for clip in decode["processes"]:
        yield clip["clip"], f"{clip['in_process_ms']:.1f} ms", f"{clip['sandboxed_ms']:.1f} ms"


def _decode_preprocessing(decode: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Yield the CPU milliseconds of preprocessing by clip."""
    yield "preprocessing of", "clip", "sound", "four frames", "both"
    for clip in decode["preprocessing"]:
        cells = (f"{clip[name]:.2f} ms" for name in ("sound_ms", "pictures_ms", "both_ms"))
        yield f"*{clip['profile']}*", clip["clip"], *cells


def _tensors_ways(tensors: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Yield the clips/s of preprocessed tensors by way."""
    yield "engine alone", "through the queue", "whole answers"
    alone, ways = tensors["engine"], (tensors["queue"], tensors["answers"])
    shares = (f"{way:.0f} ({100 * way / alone:.0f} %)" for way in ways)
    yield f"{alone:.0f} clips/s", *shares


def _devices_loads(devices: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    """Yield throughput, latency and shares of several devices behind one queue."""
    yield (
        "devices", "clips/s", "without a queue", "p50", "p99", "longest", "clips by device",
        "a client's answers, of the mean",
    )  # fmt: skip
    one = devices[0]["clips_s"]
    for load in devices:
        clips = sum(share["clips"] for share in load["shares"])
        shares = (f"{100 * share['clips'] / clips:.0f} %" for share in load["shares"])
        yield (
            load["way"], f"{load['clips_s']:.0f} ({load['clips_s'] / one:.2f}x)",
            f"{load['without_queue_clips_s']:.0f}",
            *(f"{load[name]:.0f} ms" for name in ("p50_ms", "p99_ms", "longest_ms")),
            ", ".join(shares), f"{load['fewest_clips']:.2f} to {load['most_clips']:.2f}",
        )  # fmt: skip


def _scaling_lines(scaling: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    """Yield how each quantity grows."""
    yield "per", "quantity", "measured", "line"
    for each in scaling:
        points = " / ".join(f"{point:g}" for point in each["points"])
        values = " / ".join(f"{value:.0f}" for value in each["values"])
        sign = "-" if each["slope"] < 0 else "+"
        yield (
            each["variable"], each["quantity"], f"{points}: {values}",
            f"{each['offset']:.1f} {sign} {abs(each['slope']):.2f} each",
        )  # fmt: skip


def _readme(
    engine: Mapping[str, Any], service: Mapping[str, Any], decode: Mapping[str, Any]
) -> Iterator[Sequence[str]]:
    """Yield the figures of the README."""
    yield "measurement", "result"
    clips = engine["clips"]
    of_eight = {each["path"]: each for each in clips["timings"] if each["batch"] == 8}
    plain, fused, int8 = (of_eight[path] for path in ("plain", "fused", "fused-int8"))
    yield (
        f"*{clips['checkpoint'].split()[0]}* on its clips, batch of 8: fused kernels against plain "
        "torch",
        f"{fused['samples_s']:.0f} against {plain['samples_s']:.0f} clips/s "
        f"({fused['ratio']:.1f}x); int8: {int8['samples_s']:.0f} ({int8['ratio']:.1f}x)",
    )
    phone = decode["frames"][0]
    yield (
        "four frames of 10 s of 720p H.264 (key frame every second) against decoding all",
        f"{phone['all_ms'] / phone['four_ms']:.1f}x",
    )
    peak, at_70 = service["scmrl"][0], service["scmrl"][3]
    yield (
        "service with *avdigits*, clips of 240p to 720p: peak throughput",
        f"{peak['answered_per_s']:.1f} clips/s; p99 {at_70['p99_ms']:.0f} ms at "
        f"{at_70['offered_per_s']:.1f} clips/s",
    )
    fused_litserve = service["LitServe, fused network"]
    its_peak, its_steady = _medians(fused_litserve["litserve"])
    peak, steady = _medians(fused_litserve["scmrl"])
    yield (
        "LitServe with our fused network",
        f"{fused_litserve['tried'][0]['answered_per_s']:.1f} clips/s by default; "
        f"{its_peak['answered_per_s']:.1f} as it is fastest, ours in turns "
        f"{peak['answered_per_s']:.1f}; "
        f"p99 {its_steady['p99_ms']:.0f} ms at {its_steady['offered_per_s']:.1f} clips/s, ours "
        f"{steady['p99_ms']:.0f} ms",
    )


#: The files that each table needs, and what makes its rows of their results.
_TABLES: dict[str, tuple[tuple[str, ...], Callable[..., Rows]]] = {
    "engine.paths": (("engine",), _engine_paths),
    "engine.parity": (("engine",), _engine_parity),
    "service.loads": (("service",), _service_loads),
    "service.cpu": (("service",), _service_cpu),
    "service.litserve": (("service",), _service_litserve),
    "decode.frames": (("decode",), _decode_frames),
    "decode.preprocessing": (("decode",), _decode_preprocessing),
    "decode.processes": (("decode",), _decode_processes),
    "tensors.ways": (("tensors",), _tensors_ways),
    "devices.loads": (("devices",), _devices_loads),
    "scaling.lines": (("scaling",), _scaling_lines),
    "readme": (("engine", "service", "decode"), _readme),
}
_FILES = {file for files, _ in _TABLES.values() for file in files}
