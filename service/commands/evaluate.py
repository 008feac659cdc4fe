"""`scmrl evaluate`: the command line of model.training.evaluate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from model.training.evaluation_options import EvaluateOptions
from service.commands.checkpoint_flags import Checkpoint, Data, flag_of
from service.commands.device import Device
from service.commands.failure import NOT_INSTALLED, UNUSABLE, fail

#: Returns the flag of a field of EvaluateOptions.
_flag = partial(flag_of, EvaluateOptions)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("evaluate")(evaluate)


def evaluate(
    checkpoint: Checkpoint,
    data: Data = None,
    out: Annotated[Path, _flag("out")] = EvaluateOptions.out,
    clips: Annotated[int, _flag("clips")] = EvaluateOptions.clips,
    curve_clips: Annotated[int, _flag("curve_clips")] = EvaluateOptions.curve_clips,
    attention_clips: Annotated[int, _flag("attention_clips")] = EvaluateOptions.attention_clips,
    foreign: Annotated[Path | None, _flag("foreign")] = EvaluateOptions.foreign,
    seed: Annotated[int, _flag("seed")] = EvaluateOptions.seed,
    device: Device = EvaluateOptions.device,
    only_calibration: Annotated[
        bool, _flag("only_calibration", "--only-calibration")
    ] = EvaluateOptions.only_calibration,
    write_card: Annotated[bool, _flag("write_card", "--write-card")] = EvaluateOptions.write_card,
) -> None:
    """Measure a checkpoint on clips of its task that training never saw.

    Prints accuracies with 95 % intervals (all streams, each alone, by class, with int8 weights on a
    CPU or float16 weights on a GPU, under noise, over T), the calibration, the faithfulness of
    attention and class activation maps, and answers to clips of no class (noise, blank pages, other
    words, and --foreign); draws the confusion matrix, the reliability diagram and the curves.
    """
    from rich.console import Console

    from model.checkpoint import CheckpointError
    from model.training.options import OptionsError
    from model.training.task import DataError

    try:
        from model.training.evaluate import evaluate as run
    except ModuleNotFoundError as exc:
        fail(f"{NOT_INSTALLED} ({exc.name})", 1)
    try:
        options = EvaluateOptions(
            checkpoint=checkpoint, data=data, out=out, clips=clips, curve_clips=curve_clips,
            attention_clips=attention_clips, foreign=foreign, seed=seed,
            device=device, only_calibration=only_calibration, write_card=write_card,
        )  # fmt: skip
        run(options, Console())
    except (OptionsError, CheckpointError, DataError) as exc:
        fail(str(exc), UNUSABLE)
    except (OSError, RuntimeError) as exc:
        fail(str(exc), 1)
    typer.echo(f"figures are in {out}")
