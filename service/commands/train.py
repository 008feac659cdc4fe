"""`scmrl train NAME`: a command for each task, with a flag for each of its options."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from model.config import MAX_SEED
from model.training import run_state_migration
from model.training.options import TrainOptions, as_text, flag, range_of
from model.training.task import Task
from model.training.tasks import TASKS
from service.commands.checkpoint_flags import spaced, value_name
from service.commands.failure import INTERRUPTED, NOT_INSTALLED, UNUSABLE, fail

#: Old names of flags, the fields of TrainOptions that they set, and their kind. They work for one
#: release, with a warning.
_DEPRECATED: dict[str, tuple[str, Any]] = {
    "shares": ("modality_dropout", str),
    "slow": ("lr_multiplier", list[str]),
    "from": ("init_from", Path),
    "no-class": ("outlier_share", float),
}

#: Panels of the help, and the fields of TrainOptions in each; a task's own options come first.
PANELS: dict[str, tuple[str, ...]] = {
    "Run": (
        "out", "epochs", "clips", "batch", "auto_batch", "patience", "select_by", "average",
        "development_clips", "test_clips", "calibrate", "resume", "init_from", "name", "seed",
        "device", "precision", "workers",
    ),
    "Network": (
        "steps", "embed_dim", "splitting", "attention", "alignment", "fusion", "alpha", "encoding",
    ),
    "Training": (
        "learning_rate", "learning_rate_batch", "learning_rate_floor", "lr_multiplier",
        "warmup_epochs", "weight_decay", "max_gradient_norm", "label_smoothing", "temperature",
        "modality_dropout", "outlier_share", "curriculum", "easy_start", "short_sequences",
        "new_towers", "freeze_norms", "settle_norms",
    ),
}  # fmt: skip
_DATA = "Data"

_HELP = """{description}

After each epoch, prints the accuracy on held-out clips and writes the checkpoint of this epoch
(OUT/last), the best one so far ({best}), OUT/metrics.csv and TensorBoard events. Ctrl-C stops the
training and keeps the best checkpoint so far.
"""


def register(app: typer.Typer) -> None:
    """Add the command `train` with a sub-command for each of TASKS."""
    group = typer.Typer(no_args_is_help=True, callback=_group)
    for name, task in TASKS.items():
        best = Path("OUT") / task().best_folder
        description = _HELP.format(description=task().description, best=best)
        group.command(name, help=description)(_command(task))
    app.add_typer(group, name="train", help="Train a checkpoint.")


def _group() -> None:
    """Train a checkpoint on a task."""


def _command(task: type[Task]) -> Callable[..., None]:
    """Return the command that trains a task; its parameters are made from the options."""

    def train(data: Path, **flags: Any) -> None:
        _train(task, data, flags)

    data_option = typer.Option(
        help=task().data_help, show_default=False, metavar=value_name(Path), rich_help_panel=_DATA
    )
    parameters = [_parameter("data", Annotated[Path, data_option], inspect.Parameter.empty)]
    parameters += [_option(field, _default(field), _DATA) for field in _options(task)]
    defaults = {"out": Path("runs") / task().name, **task().defaults}
    common = {field.name: field for field in _options(TrainOptions)}
    for panel, names in PANELS.items():
        for name in names:
            default = defaults.get(name, _default(common[name]))
            by_data = {"name": "that of the task", **task().defaults_by_data}.get(name)
            parameters.append(_option(common[name], default, panel, by_data))
    for name, (_, kind) in _DEPRECATED.items():
        hidden = typer.Option(f"--{name}", hidden=True)
        parameters.append(_parameter(_deprecated(name), Annotated[kind | None, hidden], None))
    train.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return train


def _options(kind: Any) -> tuple[Field[Any], ...]:
    """Return the options among the fields of an options dataclass, or of a task."""
    return tuple(field for field in fields(kind) if "help" in field.metadata)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _option(
    field: Field[Any], default: Any, panel: str, by_data: str | None = None
) -> inspect.Parameter:
    """Return the parameter of one option, which is None unless the flag is used.

    The options check their ranges themselves. `by_data`: how the data decides its default, where
    it does.
    """
    if isinstance(default, bool):
        name = flag(field.name)
        names = f"{name}/--no-{name.removeprefix('--')}" if default else name
        switch = typer.Option(
            names, help=field.metadata["help"], metavar=value_name(bool), rich_help_panel=panel
        )
        return _parameter(field.name, Annotated[bool | None, switch], None)
    kind = Path if default is None else str if isinstance(default, Mapping) else type(default)
    shown = as_text(default) if isinstance(default, Mapping) else default
    shown = by_data or ("none" if shown in (None, "") else shown)
    option = typer.Option(
        flag(field.name),
        help=f"{field.metadata['help']}{_allowed(field)} [default: {spaced(shown)}]",
        show_default=False,
        metavar=value_name(kind),
        rich_help_panel=panel,
    )
    return _parameter(field.name, Annotated[kind | None, option], None)


def _allowed(field: Field[Any]) -> str:
    """Return the values that an option may have, for its help."""
    if choices := field.metadata["choices"]:
        return f" One of {', '.join(choices)}."
    if (bounds := range_of(field)) and bounds[1] != MAX_SEED:
        return f" [{bounds[0]:.15g} to {bounds[1]:.15g}]"
    return ""


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _train(kind: type[Task], data: Path, flags: dict[str, Any]) -> None:
    """Train with the flags that are not None; end the command with a message on an error."""
    try:
        from model.checkpoint import CheckpointError
        from model.training.options import OptionsError
        from model.training.run_state import RunError
        from model.training.task import DataError
        from model.training.train import train
    except ModuleNotFoundError as exc:
        fail(f"{NOT_INSTALLED} ({exc.name})", 1)
    changes = {name: value for name, value in flags.items() if value is not None}
    _rename_deprecated(changes)
    for name in ("modality_dropout", "lr_multiplier", "new_towers"):
        if name in changes:
            changes[name] = _parse_numbers(flag(name), changes[name])
    try:
        own = {f.name: changes.pop(f.name) for f in _options(kind) if f.name in changes}
        task = kind(**own).for_data(data)
        options = TrainOptions.of(task, data, command=_command_line(), **changes)
        best = train(options)
    except (OptionsError, RunError, DataError, CheckpointError) as exc:
        fail(str(exc), UNUSABLE)
    except OSError as exc:
        fail(str(exc), 1)
    except KeyboardInterrupt as exc:
        fail(str(exc), INTERRUPTED)
    evaluate = shlex.join(["scmrl", "evaluate", str(best), "--data", str(data)])
    typer.echo(f"the best checkpoint is in {best}; next: {evaluate}")


def _rename_deprecated(changes: dict[str, Any]) -> None:
    """Move the values of deprecated flags to their current options, with a warning."""
    for old, (name, _) in _DEPRECATED.items():
        value = changes.pop(_deprecated(old), None)
        if not value:
            continue
        if name in changes:
            fail(f"--{old} is the old name of {flag(name)}; use only one of them", UNUSABLE)
        if old == "shares":
            value = run_state_migration.modality_dropout(value)
        if old == "slow":
            value = run_state_migration.lr_multiplier(value)
        changes[name] = value
        typer.echo(
            f"scmrl: --{old} is deprecated and will be removed in the next release: "
            f"use {flag(name)} {value}",
            err=True,
        )


def _deprecated(flag_name: str) -> str:
    """Return the parameter of a deprecated flag."""
    return f"deprecated_{flag_name.replace('-', '_')}"


def _parse_numbers(name: str, text: str) -> dict[str, float]:
    """Parse `all=0.2,visual=0.6,audio=0.2`; end the command where it is not of that form."""
    try:
        pairs = [pair.split("=") for pair in text.split(",")]
        return {key.strip(): float(number) for key, number in pairs}
    except ValueError:
        fail(f"{name} {text}: expected NAME=NUMBER,NAME=NUMBER", UNUSABLE)


def _command_line() -> str:
    """Return the command as it was typed, for the card."""
    return shlex.join(["scmrl", *sys.argv[1:]]).encode(errors="backslashreplace").decode()
