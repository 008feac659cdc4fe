"""`scmrl calibrate`: the command line of model.training.calibrate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from model.training.evaluation_options import CalibrateOptions
from service.commands.checkpoint_flags import Checkpoint, Data, flag_of
from service.commands.device import Device
from service.commands.failure import NOT_INSTALLED, UNUSABLE, fail

#: Returns the flag of a field of CalibrateOptions.
_flag = partial(flag_of, CalibrateOptions)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("calibrate")(calibrate)


def calibrate(
    checkpoint: Checkpoint,
    data: Data = None,
    steps: Annotated[str, _flag("steps")] = CalibrateOptions.steps,
    clips: Annotated[int, _flag("clips")] = CalibrateOptions.clips,
    examples: Annotated[int, _flag("examples")] = CalibrateOptions.examples,
    cache: Annotated[Path, _flag("cache")] = CalibrateOptions.cache,
    folds: Annotated[list[Path], _flag("folds", "--fold", show_default=False)] = [],  # noqa: B006 - Typer copies it
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
