"""`scmrl study`: the command line of model.training.study."""

from __future__ import annotations

import shlex
import sys
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from model.training.options import flag, range_of
from model.training.study.options import StudyOptions
from model.training.tasks import TASKS
from service.commands.device import Device
from service.commands.train import INTERRUPTED, NOT_INSTALLED, UNUSABLE, fail

_FIELDS: dict[str, Field[Any]] = {each.name: each for each in fields(StudyOptions)}


def register(app: typer.Typer) -> None:
    """Add the command `study` with a sub-command for each study."""
    group = typer.Typer(no_args_is_help=True, callback=_group)
    group.command("alpha")(alpha)
    app.add_typer(group, name="study", help="Train variants of a network alike and compare them.")


def _group() -> None:
    """Train variants of a network alike and compare them."""


def _option(name: str) -> Any:
    """Return the flag of one field of StudyOptions."""
    least, most = range_of(_FIELDS[name]) or (None, None)
    return typer.Option(flag(name), help=_FIELDS[name].metadata["help"], min=least, max=most)


def alpha(
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Data folder of the task.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the study.", show_default=False)],
    variants: Annotated[str, _option("variants")] = StudyOptions.variants,
    seeds: Annotated[int, _option("seeds")] = StudyOptions.seeds,
    start_epochs: Annotated[int, _option("start_epochs")] = StudyOptions.start_epochs,
    epochs: Annotated[int, _option("epochs")] = StudyOptions.epochs,
    clips: Annotated[int, _option("clips")] = StudyOptions.clips,
    batch: Annotated[int, _option("batch")] = StudyOptions.batch,
    channels: Annotated[int, _option("channels")] = StudyOptions.channels,
    steps: Annotated[int, _option("steps")] = StudyOptions.steps,
    learning_rate: Annotated[float, _option("learning_rate")] = StudyOptions.learning_rate,
    together: Annotated[float, _option("together")] = StudyOptions.together,
    development_clips: Annotated[
        int, _option("development_clips")
    ] = StudyOptions.development_clips,
    test_clips: Annotated[int, _option("test_clips")] = StudyOptions.test_clips,
    pairs: Annotated[int, _option("pairs")] = StudyOptions.pairs,
    settle: Annotated[int, _option("settle")] = StudyOptions.settle,
    seed: Annotated[int, _option("seed")] = StudyOptions.seed,
    init_from: Annotated[Path | None, _option("init_from")] = StudyOptions.init_from,
    device: Device = StudyOptions.device,
) -> None:
    """Compare weights of the cross-modal residuals (the paper's alpha), and residuals without
    semantic alignment or none at all.

    All variants of a seed start from the same weights and see the same clips. Measures accuracy,
    cross-entropy and calibration on development and test clips with all streams and each alone,
    with degraded streams, with other statistics of the batch norms, and whether the map follows
    the sound. Writes OUT/study.md, study.json and study.png after each run. A call with the same
    options goes on where an earlier one ended.
    """
    options: dict[str, Any] = dict(locals())
    from rich.console import Console

    from model.checkpoint import CheckpointError
    from model.training.options import OptionsError
    from model.training.task import DataError

    try:
        from model.training.run_state import RunError
        from model.training.study.alpha import study_alpha
    except ModuleNotFoundError as exc:
        fail(f"{NOT_INSTALLED} ({exc.name})", 1)
    if task not in TASKS:
        fail(f"--task {task}: must be one of {', '.join(TASKS)}", UNUSABLE)
    try:
        command = shlex.join(["scmrl", *sys.argv[1:]])
        table = study_alpha(StudyOptions(**options, command=command), Console())
    except (OptionsError, RunError, DataError, CheckpointError) as exc:
        fail(str(exc), UNUSABLE)
    except OSError as exc:
        fail(str(exc), 1)
    except KeyboardInterrupt as exc:
        fail(str(exc) or "interrupted; the same command goes on", INTERRUPTED)
    typer.echo(f"wrote {table}")
