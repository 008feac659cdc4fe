"""Parts of gpu_check.py that are no command of scmrl. The last line that each prints is JSON.

python .ci/gpu_parts.py machine
python .ci/gpu_parts.py starts DEVICE
python .ci/gpu_parts.py tiles CASE DEVICE SECONDS
python .ci/gpu_parts.py accuracy CHECKPOINT DEVICE CLIPS [DATA]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights"
CLIPS = ROOT / "tests" / "data" / "clips"
EVENTS = ROOT / "tests" / "data" / "events"
#: Longest time in seconds that a start waits for the fused path.
FUSED_S = 40.0
#: Seed of the test clips, as `scmrl evaluate` has it.
SEED = 7


def machine() -> dict[str, Any]:
    """Return a description of the machine, its driver, the versions of packages, and the commit."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from service.commands.bench.report import describe_machine

    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "-"
    query = ("nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader")
    return describe_machine() | {
        "driver": _output(*query) or "-",
        "cuda": torch.version.cuda or "-",
        "triton": triton,
        "commit": _output("git", "describe", "--always", "--dirty", "--abbrev=12") or "no commit",
    }


def _output(*command: str) -> str:
    """Return the first line that a command prints; "" where it cannot be run."""
    try:
        completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter(completed.stdout.splitlines()), "") if completed.returncode == 0 else ""


def starts(device: str) -> list[dict[str, Any]]:
    """Return the times of a first start, for which nothing is compiled yet, and of a second one.

    Prints the first as well, so that a slow second start does not lose it.
    """
    from service.bench.clips import MIX, render_clip

    clip = render_clip(MIX[0][0])
    with tempfile.TemporaryDirectory() as caches:
        first = _start(device, Path(caches), clip, "first")
        print(json.dumps([first]), flush=True)
        return [first, _start(device, Path(caches), clip, "later")]


def _start(device: str, caches: Path, clip: bytes, name: str) -> dict[str, Any]:
    """Start the service; return seconds until it is ready, has answered, and is on a faster path.

    Raises TimeoutError where it stays on the plain one.
    """
    import httpx

    from service.bench import servers

    settings = {
        "SCMRL_DEVICE": device,
        "SCMRL_COMPILE": "auto",
        "NUMBA_CACHE_DIR": str(caches / "numba"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
    }
    started = time.monotonic()
    with servers.run_scmrl(WEIGHTS / "avdigits", **settings) as server:
        ready_s = time.monotonic() - started
        answer = httpx.post(server.url, files={"clip": clip}, timeout=FUSED_S)
        answer.raise_for_status()
        answer_s = time.monotonic() - started
        models = server.url.replace("/classify", "/models")
        while (path := httpx.get(models).json()["models"][0]["path"]) == "plain":
            if time.monotonic() - started > FUSED_S:
                raise TimeoutError(f"avdigits is on its plain path after {FUSED_S:g} s")
            time.sleep(0.1)
        fused_s = time.monotonic() - started
    return {
        "start": name, "path": path, "ready_s": ready_s, "answer_s": answer_s, "fused_s": fused_s
    }  # fmt: skip


def tiles(case: str, device: str, seconds: str) -> dict[str, Any]:
    """Return the seconds of batches of a network of `scmrl bench engine` before and after tiles
    were measured for `seconds`, which layers got another tile than the rule's, and the maximum
    batch that the service would choose.

    The tiles are kept where the other parts read them, as does the next start of the service.
    """
    from model.engine import Engine, bench
    from service.inference.batch_choice import SIZES, choose_max_batch, longest_batch_s
    from service.settings import Settings

    network = bench.CASES[case]
    steps, settings = network.steps, Settings()
    sizes = SIZES if device != "cpu" else SIZES[:2]
    longest_s = longest_batch_s(settings.max_wait_s)
    engine = Engine(bench.network(network), device)
    engine.fuse(steps=steps)
    before = engine.batch_times(steps, sizes, longest_s)
    started = time.monotonic()
    engine.tune(float(seconds))
    tuned_s = time.monotonic() - started
    after = engine.batch_times(steps, sizes, longest_s)
    return {
        "path": engine.path,
        "before": list(before.items()),
        "after": list(after.items()),
        "tuned_s": tuned_s,
        **_changed_tiles(engine.tiles),
        "max_batch": choose_max_batch(after, longest_s, settings.queue_length),
    }


def _changed_tiles(tiles: Any) -> dict[str, Any]:
    """Return how many layer shapes were measured, and those with another tile than the rule's."""
    if tiles is None:
        return {"measured": 0, "unfinished": 0, "changed": []}
    from dataclasses import asdict

    from model.fused.cuda.tiles import rule

    measured = {shape: each.tile for shape, each in tiles.measured.items()}
    changed = [(shape, tile) for shape, tile in measured.items() if tile != rule(shape)]
    return {
        "measured": len(tiles.measured),
        "unfinished": len(tiles.unfinished),
        "changed": [{"layer": asdict(shape), "tile": asdict(tile)} for shape, tile in changed],
    }


def accuracy(checkpoint: str, device: str, clips: str, data: str = "") -> list[dict[str, Any]]:
    """Return the accuracy on a device, at each precision that it has, and on the CPU in float32.

    Exits with code 1, after the results, where a GPU cannot compute at one of its precisions. The
    clips are those in the repository, and `clips` test clips of the data set in the folder
    `data`, if one is named.
    """
    from model.training.evaluator import Evaluator, decode_within_memory

    folder = WEIGHTS / checkpoint
    pair = [Evaluator(folder, name) for name in ("cpu", device)]
    labels = pair[0].card.labels
    sets = {"recorded clips": recorded(checkpoint, labels)}
    if data:
        subfolder = Path(data) / checkpoint
        parts = pair[0].task.load(subfolder if subfolder.is_dir() else Path(data))
        sets["test clips"] = list(parts.test_clips(int(clips), SEED))
    steps = pair[0].card.steps
    decoded = {name: decode_within_memory(clips, steps, pair[0]) for name, clips in sets.items()}
    cpu = {name: _probabilities(pair[0], clips) for name, clips in decoded.items()}
    results = [_compare(pair, decoded[name], cpu[name], name, device) for name in sets]
    engine = pair[1].engine
    for precision in engine.reduced_precisions:
        if engine.fuse(precision, steps):
            results += [_compare(pair, decoded[name], cpu[name], name, device) for name in sets]
        elif device != "cpu":  # some CPUs lack kernels for int8
            print(json.dumps(results))
            sys.exit(1)
    return results


def _probabilities(evaluator: Any, clips: Sequence[Any]) -> Any:
    """Return the probabilities (clips, classes) of clips."""
    import torch

    return torch.from_numpy(evaluator.logits(clips, evaluator.card.steps)).softmax(1)


def recorded(checkpoint: str, labels: Sequence[str]) -> list[Any]:
    """Return the labelled clips of a checkpoint in the repository."""
    from model.training.ndigits_events.clips import EventClip
    from model.training.task import LabelledClip

    if checkpoint == "ndigits-events":
        camera, cochlea = ((EVENTS / f"digit-7.{end}").read_bytes() for end in ("bs2", "npz"))
        return [EventClip(camera, labels.index("7"), name="digit-7", cochlea=cochlea)]
    first = {"avdigits": "digit", "handsigns": "hand", "drones": "drone"}[checkpoint]
    files = sorted(CLIPS.glob(f"{first}*"))
    named = [(path, path.stem.rpartition("-")[2]) for path in files]
    return [LabelledClip(path.read_bytes(), labels.index(x), name=path.name) for path, x in named]


def _compare(
    pair: Sequence[Any], decoded: Sequence[Any], cpu: Any, name: str, device: str
) -> dict[str, Any]:
    """Compare the probabilities on the CPU with those on the path that the device is on."""
    import numpy as np

    other = _probabilities(pair[1], decoded)
    truth = np.asarray([clip.truth.label for clip in decoded])
    answers = [probabilities.argmax(1).numpy() for probabilities in (cpu, other)]
    return {
        "of": name,
        "clips": len(truth),
        "device": device,
        "cpu_path": pair[0].engine.path,
        "path": pair[1].engine.path,
        "cpu_right": int((answers[0] == truth).sum()),
        "right": int((answers[1] == truth).sum()),
        "differ": int((answers[0] != answers[1]).sum()),
        "difference": float((cpu - other).abs().max()),
    }


def main(arguments: Sequence[str]) -> None:
    """Run the part that the first argument names, and print its result."""
    part: Callable[..., Any] = {
        "machine": machine,
        "starts": starts,
        "tiles": tiles,
        "accuracy": accuracy,
    }[arguments[0]]
    print(json.dumps(part(*arguments[1:])))


if __name__ == "__main__":
    main(sys.argv[1:])
