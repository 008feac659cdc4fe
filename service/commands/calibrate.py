"""`scmrl calibrate`: the command line of model.training.calibrate."""

from __future__ import annotations

from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from model.training.evaluation_options import CalibrateOptions
from model.training.options import range_of
from service.commands.device import Device
from service.commands.failure import NOT_INSTALLED, UNUSABLE, fail

_FIELDS: dict[str, Field[Any]] = {each.name: each for each in fields(CalibrateOptions)}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("calibrate")(calibrate)


def _option(name: str) -> Any:
    """Return the flag of one field of CalibrateOptions."""
    least, most = range_of(_FIELDS[name]) or (None, None)
    return typer.Option(help=_FIELDS[name].metadata["help"], min=least, max=most)


def calibrate(
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
    steps: Annotated[str, _option("steps")] = CalibrateOptions.steps,
    clips: Annotated[int, _option("clips")] = CalibrateOptions.clips,
    examples: Annotated[int, _option("examples")] = CalibrateOptions.examples,
    cache: Annotated[Path, _option("cache")] = CalibrateOptions.cache,
    folds: Annotated[
        list[Path],
        typer.Option("--fold", help=_FIELDS["folds"].metadata["help"], show_default=False),
    ] = [],  # noqa: B006 - Typer copies it
    device: Device = CalibrateOptions.device,
) -> None:
    """Fit softmax temperatures on development clips and write them into the card.

    One temperature is fitted for each T, with all streams and with each stream alone. For the
    card's T, the out-of-distribution score is fitted as well; it moves the probabilities of
    unfamiliar clips towards equal ones. The expected calibration error (ECE) is printed before and
    after (two-fold cross-fitting). Test clips are not used: measure with `scmrl evaluate
    --only-calibration`.
    """
    from rich.console import Console

    from model.checkpoint import CheckpointError
    from model.training.options import OptionsError
    from model.training.task import DataError

    try:
        from model.training.calibrate import calibrate as run
    except ModuleNotFoundError as exc:
        fail(f"{NOT_INSTALLED} ({exc.name})", 1)
    try:
        options = CalibrateOptions(
            checkpoint, data, steps, clips, device, examples, cache, tuple(folds)
        )
        run(options, Console())
    except (OptionsError, CheckpointError, DataError) as exc:
        fail(str(exc), UNUSABLE)
    except (OSError, RuntimeError) as exc:
        fail(str(exc), 1)
    typer.echo(f"wrote {checkpoint / 'card.json'}")
