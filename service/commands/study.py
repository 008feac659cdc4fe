"""`scmrl study NAME`: the command line of model.training.study."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from model.training.options import flag, range_of
from model.training.study.options import DEFAULTS_BY_START, STUDIES, StudyOptions
from model.training.tasks import TASKS
from service.commands.checkpoint_flags import spaced
from service.commands.device import Device
from service.commands.failure import INTERRUPTED, NOT_INSTALLED, UNUSABLE, fail
from service.default_checkpoint import WEIGHTS

_HELP = """Compare {about}.

All variants of a seed start from the same weights and see the same clips. With --epochs 0, the
checkpoint of --init-from is measured without training. Variants: {variants}.

Writes OUT/study.md, study.json and study.png after each run. A call with the same options resumes
where an earlier one ended.
"""
#: Options that only these studies have.
_OF_STUDIES = {
    "pairs": ("alpha",),
    "settle": ("alpha",),
    "snrs": ("noise",),
    "time_steps": ("steps",),
    "margins": ("exit",),
    "most_steps": ("exit",),
}
_TYPES = get_type_hints(StudyOptions)


def register(app: typer.Typer) -> None:
    """Add the command `study` with a sub-command for each of STUDIES."""
    group = typer.Typer(no_args_is_help=True, callback=_group)
    for study, (about, variants) in STUDIES.items():
        listed = variants.replace(",", ", ")
        group.command(study, help=_HELP.format(about=about, variants=listed))(_command(study))
    app.add_typer(group, name="study", help="Train variants of a network alike and compare them.")


def _group() -> None:
    """Train variants of a network alike and compare them."""


def _command(study: str) -> Callable[..., None]:
    """Return the command of a study; its parameters are made from the options."""

    def run(**values: Any) -> None:
        _run(study, values)

    required = {
        "task": Annotated[
            str, typer.Option(help=f"One of {', '.join(TASKS)}.", show_default=False)
        ],
        "data": Annotated[Path, typer.Option(help="Data folder of the task.", show_default=False)],
        "out": Annotated[Path, typer.Option(help="Folder of the study.", show_default=False)],
    }
    parameters = [_parameter(name, kind) for name, kind in required.items()]
    parameters += [
        _parameter(field.name, _option(field), _default(field))
        for field in fields(StudyOptions)
        if "help" in field.metadata and study in _OF_STUDIES.get(field.name, STUDIES)
    ]
    parameters.append(_parameter("device", Device, StudyOptions.device))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _option(field: Field[Any]) -> Any:
    """Return the flag of one field of StudyOptions."""
    least, most = range_of(field) or (None, None)
    by_start = DEFAULTS_BY_START.get(field.name)
    default = _default(field)
    shown = f" [default: {by_start or spaced(default)}]"
    option = typer.Option(
        flag(field.name), min=least, max=most, show_default=False,
        help=field.metadata["help"] + (shown if by_start or default not in ("", None) else ""),
    )  # fmt: skip
    kind = _TYPES[field.name]
    return Annotated[kind | None if by_start else kind, option]


def _default(field: Field[Any]) -> Any:
    return None if field.name in DEFAULTS_BY_START else field.default


def _parameter(
    name: str, annotation: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _run(study: str, values: dict[str, Any]) -> None:
    """Run a study; end the command with a message on an error."""
    from rich.console import Console

    from model.checkpoint import CheckpointError
    from model.training.options import OptionsError
    from model.training.task import DataError

    try:
        from model.training.run_state import RunError
        from model.training.study.runner import run_study
    except ModuleNotFoundError as exc:
        fail(f"{NOT_INSTALLED} ({exc.name})", 1)
    if values["task"] not in TASKS:
        fail(f"--task {values['task']}: must be one of {', '.join(TASKS)}", UNUSABLE)
    try:
        command = shlex.join(["scmrl", *sys.argv[1:]])
        options = StudyOptions.of(**values, shipped=WEIGHTS, study=study, command=command)
        table = run_study(options, Console())
    except (OptionsError, RunError, DataError, CheckpointError) as exc:
        # Data folders advise a flag of `scmrl train`.
        fail(str(exc).replace("--skip-faulty", "--task-options skip-faulty=true"), UNUSABLE)
    except OSError as exc:
        fail(str(exc), 1)
    except KeyboardInterrupt as exc:
        fail(str(exc) or "interrupted; the same command resumes it", INTERRUPTED)
    typer.echo(f"wrote {table}")
