"""The task of a study, with the options of its own that the command or a checkpoint decides."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

from model.checkpoint import read_card
from model.training.checkpoint_task import task_of_card
from model.training.options import OptionsError
from model.training.study.options import StudyOptions
from model.training.task import Task
from model.training.tasks import TASKS

_FLAG = "--task-options"
_SWITCH = {"true": True, "false": False}


def task_of(options: StudyOptions) -> Task:
    """Return the task of a study.

    A checkpoint that is measured as it is has the split of its card, as in `scmrl evaluate`: a
    split of other options would hold clips that it was trained on. Raises OptionsError,
    CheckpointError and DataError.
    """
    kind = TASKS[options.task]
    if options.epochs:
        return kind(**_parse(options.task_options, kind)).for_data(options.data)
    assert options.init_from is not None
    if options.task_options:
        raise OptionsError(f"{_FLAG}: with --epochs 0 those of the checkpoint hold")
    task = task_of_card(read_card(options.init_from), options.init_from)
    if task.name != kind().name:
        raise OptionsError(f"--init-from {options.init_from}: its task is {task.name}")
    return task


def _parse(text: str, kind: Any) -> dict[str, Any]:
    """Return the options of a task that a text `NAME=VALUE,…` sets, by field."""
    known: dict[str, Field[Any]] = {
        field.name.replace("_", "-"): field for field in fields(kind) if "help" in field.metadata
    }
    values = {}
    for part in text.split(",") if text else ():
        name, equals, value = part.strip().partition("=")
        if name not in known or not equals:
            raise OptionsError(
                f"{_FLAG} {part}: must be NAME=VALUE of {', '.join(known) or 'none'}"
            )
        values[known[name].name] = _value(part, value, known[name])
    return values


def _value(part: str, text: str, field: Field[Any]) -> Any:
    """Return the value of a field by the type of its default."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if isinstance(default, bool):
        if text not in _SWITCH:
            raise OptionsError(f"{_FLAG} {part}: must be {' or '.join(_SWITCH)}")
        return _SWITCH[text]
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError as exc:
            raise OptionsError(f"{_FLAG} {part}: must be a number") from exc
    return text
