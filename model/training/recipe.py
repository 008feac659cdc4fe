"""The network and the card of a training run, and the check that a checkpoint is of its task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from model import checkpoint
from model.checkpoint import Card, CheckpointError, Training
from model.config import Config, StreamConfig
from model.preprocess.specs import Spec
from model.training.options import HEADS, TrainOptions
from model.training.task import Task
from model.training.tasks import TASKS


def configuration(options: TrainOptions) -> Config:
    """Return the configuration of the network that is trained."""
    streams = {
        name: StreamConfig(channels=spec.channels, size=spec.size)
        for name, spec in options.task.specs.items()
    }
    return Config(
        streams=streams,
        classes=len(options.task.labels),
        embed_dim=options.embed_dim,
        heads=HEADS,
        alpha=options.alpha,
    )


def card(options: TrainOptions, epochs: int) -> Card:
    """Return the card of a checkpoint after `epochs` epochs, without measurements."""
    task = options.task
    optimizer = (
        f"AdamW, learning rate {options.learning_rate}, cosine, "
        f"{options.warmup_epochs:g} epochs of warm-up, weight decay {options.weight_decay}"
    )
    loss = (
        f"cross-entropy (label smoothing {options.label_smoothing}) + "
        f"semantic alignment (temperature {options.temperature})"
    )
    notes = {
        "clips_an_epoch": str(options.clips),
        "batch": str(options.batch),
        "optimizer": optimizer,
        "loss": loss,
        **task.card_notes(),
        **_initial_weights(options.init_from),
    }
    return Card(
        name=task.name,
        version=task.version,
        description=task.description,
        streams=dict(task.specs),
        encoding="direct",
        steps=options.steps,
        labels=task.labels,
        config=configuration(options),
        missing_streams=task.missing_streams,
        data=task.sources(),
        training=Training(
            command=options.command, seed=options.seed, epochs=epochs, notes=notes
        ),
    )  # fmt: skip


def _initial_weights(init_from: Path | None) -> dict[str, str]:
    """Return the note on how the weights that a training starts from were trained."""
    if init_from is None:
        return {}
    initial = checkpoint.read_card(init_from)
    if initial.training is None:
        return {"init_from": initial.name}
    extent = f"{initial.training.epochs} epochs, {initial.config.embed_dim} channels"
    return {"init_from": f"{initial.training.command} ({extent})"}


def task_of(card: Card, folder: Path) -> Task:
    """Return the task that a checkpoint was trained on, by its labels and its streams.

    Raises CheckpointError, naming the field of the card, where it is not in TASKS.
    """
    tasks = [task() for task in TASKS.values()]
    same_labels = [task for task in tasks if task.labels == card.labels]
    for task in same_labels:
        if _kinds(card.streams) == _kinds(task.specs):
            return task
    for task in same_labels:
        check_task(task, card, folder)  # raises: its streams are others
    raise _of_another_task(card, folder, tasks)


def check_task(task: Task, card: Card, folder: Path) -> None:
    """Raise CheckpointError, naming the field of the card, where it is not of this task."""
    if card.labels != task.labels:
        raise _of_another_task(card, folder, [task])
    kinds, expected = _kinds(card.streams), _kinds(task.specs)
    if kinds != expected:
        problem = f"{kinds} are not the streams of {task.name}: {expected}"
        raise CheckpointError(folder / checkpoint.CARD, "streams", problem)


def _kinds(specs: Mapping[str, Spec]) -> dict[str, str]:
    """Return the kind of preprocessing of each stream, by its name."""
    return {name: spec.kind for name, spec in specs.items()}


def _of_another_task(card: Card, folder: Path, tasks: list[Task]) -> CheckpointError:
    labels = ", ".join(card.labels[:10]) + (", …" if len(card.labels) > 10 else "")
    known = "; ".join(f"{task.name} has {', '.join(task.labels)}" for task in tasks)
    problem = f"{labels} are not those of a known task; {known}"
    return CheckpointError(folder / checkpoint.CARD, "labels", problem)
