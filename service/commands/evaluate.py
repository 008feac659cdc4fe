"""`scmrl evaluate`: the command line of model.training.evaluate."""

from __future__ import annotations

from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from model.training.evaluation_options import EvaluateOptions
from model.training.options import range_of
from service.commands.device import Device
from service.commands.failure import NOT_INSTALLED, UNUSABLE, fail

_FIELDS: dict[str, Field[Any]] = {each.name: each for each in fields(EvaluateOptions)}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("evaluate")(evaluate)


def _option(name: str) -> Any:
    """Return the flag of one field of EvaluateOptions."""
    least, most = range_of(_FIELDS[name]) or (None, None)
    return typer.Option(help=_FIELDS[name].metadata["help"], min=least, max=most)


def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint's folder.", metavar="CHECKPOINT")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data folder of the checkpoint's task. [default: the one in its card]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, _option("out")] = EvaluateOptions.out,
    clips: Annotated[int, _option("clips")] = EvaluateOptions.clips,
    curve_clips: Annotated[int, _option("curve_clips")] = EvaluateOptions.curve_clips,
    attention_clips: Annotated[int, _option("attention_clips")] = EvaluateOptions.attention_clips,
    foreign: Annotated[Path | None, _option("foreign")] = EvaluateOptions.foreign,
    seed: Annotated[int, _option("seed")] = EvaluateOptions.seed,
    device: Device = EvaluateOptions.device,
    only_calibration: Annotated[
        bool, typer.Option("--only-calibration", help=_FIELDS["only_calibration"].metadata["help"])
    ] = EvaluateOptions.only_calibration,
    write_card: Annotated[
        bool, typer.Option("--write-card", help=_FIELDS["write_card"].metadata["help"])
    ] = EvaluateOptions.write_card,
) -> None:
    """Measure a checkpoint on clips of its task that training never saw.

    Prints accuracies with 95 % intervals (all streams, each alone, by class, with int8 weights,
    under noise, over T), the calibration, the faithfulness of the attention maps, and answers to
    clips of no class (white noise, blank pages, and --foreign); draws the confusion matrix, the
    reliability diagram and the curves.
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
