"""The Markdown table of gpu_check.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

#: Number of last characters of a part's reason that are shown; gpu-check.json has more.
REASON = 200
#: A row's measurement and its value.
Row = tuple[str, str]


def markdown(content: Mapping[str, Any]) -> str:
    """Return the table of a report in the form of gpu-check.json, one row for each figure."""
    machine = content["machine"]
    facts = [machine["gpu"] or "no GPU", f"{machine['cores']} cores of {machine['processor']}"]
    facts += [f"{name} {machine[name]}" for name in ("driver", "cuda", "torch", "triton", "python")]
    facts += [f"load average {machine['load_average']}", machine["date"], machine["commit"]]
    lines = [f"{', '.join(facts)}; device {content['device']}.", ""]
    lines += ["| part | measurement | value |", "| --- | --- | --- |"]
    for part in content["parts"]:
        first = f"{part['state']}, {part['seconds']:.0f} s"
        reason = " ".join(part["reason"].split())[-REASON:]
        rows = [("", f"{first}: {reason}" if reason else first)]
        if part["result"] is not None:
            rows += _rows(part["name"])(part["result"])
        lines += [f"| {_cell(part['name'])} | {_cell(a)} | {_cell(b)} |" for a, b in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _rows(name: str) -> Callable[[Any], Iterator[Row]]:
    """Return the function that makes rows of a part's result."""
    # A name begins with the kind of its part, as in "engine, crema_d".
    return _ROWS[name.replace(",", " ").split()[0]]


def _starts(result: Any) -> Iterator[Row]:
    for start in result:
        yield (
            f"{start['start']} start: ready / first answer / {start['path']}",
            f"{start['ready_s']:.1f} / {start['answer_s']:.1f} / {start['fused_s']:.1f} s",
        )


def _tests(result: Any) -> Iterator[Row]:
    yield (
        "passed / failed / skipped",
        f"{result['passed']} / {len(result['failed'])} / {result['skipped']}",
    )
    for name in result["failed"]:
        yield "failed", name


def _accuracy(result: Any) -> Iterator[Row]:
    for clips in result:
        yield (
            f"{clips['clips']} {clips['of']}: right on the CPU ({clips['cpu_path']}) / "
            f"{clips['device']} ({clips['path']})",
            f"{clips['cpu_right']} / {clips['right']}; {clips['differ']} answers differ; "
            f"probabilities by at most {clips['difference']:.1e}",
        )


def _tiles(result: Any) -> Iterator[Row]:
    before, after = dict(result["before"]), dict(result["after"])
    for size, seconds in after.items():
        rate = f"{size / before[size]:,.0f} / " if size in before else ""
        yield f"batch {size}, samples/s: rule / measured tiles", f"{rate}{size / seconds:,.0f}"
    yield (
        "layers measured / unfinished / with another tile",
        f"{result['measured']} / {result['unfinished']} / {len(result['changed'])} in "
        f"{result['tuned_s']:.0f} s",
    )
    yield "maximum batch by that curve", str(result["max_batch"])
    for row in result["changed"]:
        layer, tile = row["layer"], row["tile"]
        if layer["batch"] in (1, 32):
            yield _layer(layer), _tile(tile)


def _layer(layer: Mapping[str, Any]) -> str:
    return (
        f"batch {layer['batch']}, {layer['takes']} {layer['channels']} to {layer['filters']}, "
        f"{layer['height']} x {layer['width']}, {layer['taps']} taps"
        + (", pooled" if layer["pooled"] else "")
    )


def _tile(tile: Mapping[str, Any]) -> str:
    form = ", taps x channels" if tile["flat"] else ""
    form += ", pooled" if tile["patch_w"] else ""
    return (
        f"{tile['block_t']} steps x {tile['block_m']} pixels x {tile['block_n']} filters x "
        f"{tile['block_k']}{form}, {tile['warps']} warps"
    )


def _engine(result: Any) -> Iterator[Row]:
    for case in result["cases"]:
        timings = case["timings"]
        for batch in dict.fromkeys(timing["batch"] for timing in timings):
            rows = [timing for timing in timings if timing["batch"] == batch]
            yield (
                f"batch {batch}, samples/s: {' / '.join(row['path'] for row in rows)}",
                " / ".join(f"{row['samples_s']:,.0f}" for row in rows)
                + f" ({max(row['ratio'] for row in rows):.1f} times)",
            )
        for launched in case["kernels"]:
            for path in launched["paths"]:
                yield (
                    f"batch {path['batch']}, {path['path']}: launches / kernels",
                    f"{path['launches']} / {sum(each['count'] for each in path['kernels'])} in "
                    f"{sum(each['microseconds'] for each in path['kernels']):,.0f} us",
                )
        for path, parity in case["parity"].items():
            yield (
                f"{path} against plain, {parity['samples']} samples",
                f"{parity['flips']} of {parity['spikes']} spikes, {parity['classes']} answers",
            )


def _service(result: Any) -> Iterator[Row]:
    for load in result["scmrl"]:
        rate = load["offered_per_s"]
        failed = ", ".join(f"{n} x {status}" for status, n in load["failed"].items()) or "none"
        yield (
            "peak" if rate is None else f"{rate:.1f} clips/s offered",
            f"{load['answered_per_s']:.1f} clips/s; p50 / p95 / p99 {load['p50_ms']:.0f} / "
            f"{load['p95_ms']:.0f} / {load['p99_ms']:.0f} ms; failed: {failed}",
        )
    for name, milliseconds in result["cpu_ms"].items():
        yield f"CPU ms a clip, {name}", f"{milliseconds['all']:.1f}"


_ROWS: dict[str, Callable[[Any], Iterator[Row]]] = {
    "starts": _starts,
    "tests": _tests,
    "accuracy": _accuracy,
    "tiles": _tiles,
    "engine": _engine,
    "service": _service,
}
