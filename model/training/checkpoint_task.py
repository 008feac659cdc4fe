"""The task that a checkpoint was trained on."""

from __future__ import annotations

from pathlib import Path

from model import checkpoint
from model.checkpoint import Card, CheckpointError
from model.training.task import Task, check_task, kinds, of_another_task
from model.training.tasks import TASKS


def task_of_card(card: Card, folder: Path) -> Task:
    """Return the task of a card: by `training.task`, or by labels and streams in cards without it.

    Raises CheckpointError, naming the field of the card, where it is not in TASKS.
    """
    name = card.training.task if card.training else None
    if name is not None:
        if name not in TASKS:
            problem = f"{name} is no task; there are {', '.join(TASKS)}"
            raise CheckpointError(folder / checkpoint.CARD, "training.task", problem)
        return TASKS[name]().for_checkpoint(card, folder)
    tasks = [task() for task in TASKS.values()]
    with_labels = [task for task in tasks if task.labels]
    same_labels = [task for task in with_labels if task.labels == card.labels]
    for task in same_labels:
        if kinds(card.streams) == kinds(task.specs):
            return task
    for task in same_labels:
        check_task(task, card, folder)  # raises: its streams are others
    raise of_another_task(card, folder, with_labels)
