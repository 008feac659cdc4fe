"""`scmrl import`: make a checkpoint of a file that the published training wrote.

The paper's authors train with timm, whose CheckpointSaver writes `.pth.tar` files of torch.save.
"""

from __future__ import annotations

import hashlib
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.checkpoint.card import Card, CheckpointError, Training
from model.checkpoint.published import fit_published, read_state_dict
from model.checkpoint.published_config import PublishedConfig, read_config
from model.checkpoint.published_tasks import FROM_FILE, Overrides, PublishedTask
from model.checkpoint.torch_file import open_torch_file
from model.config import MAX_SEED, Config
from model.network import SCMRL
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import Specs
from model.regular_file import read_regular

#: Largest file of labels, in bytes.
_MAX_LABELS_BYTES = 1 << 20
#: Arguments of the published training that the card keeps.
_TRAINING_ARGUMENTS = (
    "dataset", "modality", "opt", "lr", "weight_decay", "sched", "warmup_epochs", "epochs",
    "batch_size", "smoothing", "temperature", "snr",
)  # fmt: skip
#: Parts of the file that are used.
_USED = {"state_dict", "args", "epoch", "metric"}


@dataclass(frozen=True)
class Imported:
    """A published checkpoint as ours.

    `unused`: parts of the weights that take no part in the network, with their number of entries.
    `ignored`: other parts of the file that were not used. `thresholds`: of the neurons, with the
    number of each. `check`: what a forward pass gave.
    """

    network: SCMRL
    card: Card
    unused: dict[str, int]
    ignored: tuple[str, ...]
    thresholds: dict[float, int]
    check: Check


@dataclass(frozen=True)
class Check:
    """A forward pass of two samples of noise: T, largest logit, firing rates of the tokens."""

    steps: int
    largest_logit: float
    firing_rates: dict[str, float]


def import_checkpoint(
    file: Path,
    task: PublishedTask,
    name: str,
    labels: Path | None = None,
    overrides: Overrides = FROM_FILE,
) -> Imported:
    """Return the network and card of a published file; nothing in it is executed.

    `labels`: a file with one label a line, in the order of the logits, instead of the task's.
    Raises CheckpointError naming the file, and the entry, argument or line in it.
    """
    with open_torch_file(file) as opened:
        weights = read_state_dict(opened, file)
        others = opened.content if "state_dict" in opened.content else {}
        arguments = _arguments(others)
        published = read_config(weights, arguments, task, overrides, file)
        network, unused = fit_published(weights, published.config, file)
    card = Card(
        name=name,
        version="1",
        description=task.description,
        streams=_specs(task, published.config),
        encoding="direct",
        steps=published.steps,
        labels=_labels(task, published.config.classes, labels, file),
        config=published.config,
        missing_streams=False,
        data=task.sources,
        training=_training(file, task, arguments, others),
        notes=_notes(file, task, published, labels, others),
    )
    return Imported(
        network=network,
        card=card,
        unused=dict(Counter(_part(entry) for entry in unused)),
        ignored=tuple(str(part) for part in others if part not in _USED),
        thresholds=_thresholds(network),
        check=_check(network, published.steps, file),
    )


def _arguments(others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the command line of the training by name; nothing where the file has none."""
    arguments = others.get("args")
    if isinstance(arguments, Namespace):
        return dict(vars(arguments))
    return dict(arguments) if isinstance(arguments, dict) else {}


def _specs(task: PublishedTask, config: Config) -> Specs:
    return {name: PROFILES[task.profile][name] for name in config.streams}


def _labels(task: PublishedTask, classes: int, labels: Path | None, file: Path) -> tuple[str, ...]:
    if labels is None:
        if len(task.labels) != classes:
            raise CheckpointError(
                file,
                "head.weight",
                f"is of {classes} classes, but --task {task.name} has {len(task.labels)}: give the "
                "labels by --labels FILE",
            )
        return task.labels
    try:
        text = read_regular(labels, _MAX_LABELS_BYTES).decode("utf-8-sig")
    except OSError as exc:
        raise CheckpointError(labels, "", exc.strerror or str(exc)) from exc
    except UnicodeDecodeError as exc:
        raise CheckpointError(labels, "", "is not UTF-8") from exc
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        if not line or lines.index(line) != number - 1:
            problem = f"repeats {line!r}" if line else "is empty"
            raise CheckpointError(labels, f"line {number}", f"{problem}; expected a label a line")
    if len(lines) != classes:
        raise CheckpointError(labels, "", f"has {len(lines)} labels for {classes} classes")
    return tuple(lines)


def _training(
    file: Path, task: PublishedTask, arguments: Mapping[str, Any], others: Mapping[str, Any]
) -> Training:
    seed, epoch = arguments.get("seed"), others.get("epoch")
    recorded = {name: arguments[name] for name in _TRAINING_ARGUMENTS if name in arguments}
    return Training(
        command=f"the published implementation, then scmrl import {file.name} --task {task.name}",
        task=task.name,
        seed=seed if isinstance(seed, int) and 0 <= seed <= MAX_SEED else 0,
        epochs=epoch + 1 if isinstance(epoch, int) and 0 <= epoch < 1_000_000 else 0,
        notes={name: str(value)[:200] for name, value in recorded.items()},
    )


def _notes(
    file: Path,
    task: PublishedTask,
    published: PublishedConfig,
    labels: Path | None,
    others: Mapping[str, Any],
) -> tuple[str, ...]:
    notes = [f"imported from {file.name}, SHA-256 {_sha256(file)}"]
    origin = f"{labels.name}" if labels else task.labels_from
    notes.append(f"order of the labels: {origin}")
    metric = others.get("metric")
    if isinstance(metric, int | float):
        notes.append(
            f"the file says {metric:g} % top-1 at the end of its training; not measured here"
        )
    if published.assumed:
        notes.append(f"the file does not say, assumed as published: {', '.join(published.assumed)}")
    return tuple(notes)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _part(entry: str) -> str:
    """Return the part of the published network that an entry is of."""
    if entry.startswith("av_attention."):
        return "av_attention"
    if entry.endswith(".act_fun.alpha"):
        return "act_fun.alpha"
    if ".res_lif." in entry:
        return "res_lif"
    if match := re.fullmatch(r"block\.\d+\.(norm[12])\..*", entry):
        return f"block.*.{match[1]}"
    return entry.partition(".")[0]


def _thresholds(network: SCMRL) -> dict[float, int]:
    entries = network.state_dict().items()
    counts = Counter(float(x) for name, x in entries if name.endswith("threshold"))
    return dict(sorted(counts.items()))


def _check(network: SCMRL, steps: int, file: Path) -> Check:
    """Run two samples of noise. Raises CheckpointError where the logits are not finite."""
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.randn((1, 2, stream.channels, *stream.size), generator=generator)
        for name, stream in network.config.streams.items()
    }
    repeated = {name: x.expand(steps, *x.shape[1:]) for name, x in inputs.items()}
    with torch.inference_mode():
        output = network(repeated)
    if not output.logits.isfinite().all():
        raise CheckpointError(file, "", "gives logits that are not finite")
    return Check(
        steps=steps,
        largest_logit=float(output.logits.abs().max()),
        firing_rates={name: float(rate.mean()) for name, rate in output.firing_rates.items()},
    )
