"""`scmrl train` and `scmrl evaluate`: thin calls into model.training."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from service.commands.device import Device

#: Exit codes: of options, data or a checkpoint that cannot be used, and what a shell gives a
#: command that Ctrl-C ended.
UNUSABLE, INTERRUPTED = 2, 130
_NEEDED = "the training's libraries are not installed: pip install -e '.[train]'"

trainings = typer.Typer(no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(trainings, name="train", help="Train a checkpoint.")
    app.command("evaluate")(evaluate)


Data = Annotated[
    Path, typer.Option(help="Folder of handwriting.npz and speech/.", show_default=False)
]


@trainings.callback()
def train() -> None:
    """Train a checkpoint on a data set that is named."""


@trainings.command("avdigits")
def train_avdigits(
    data: Data,
    out: Annotated[
        Path, typer.Option(help="Folder for checkpoints, metrics.csv and TensorBoard's events.")
    ] = Path("runs/avdigits"),
    epochs: Annotated[int, typer.Option(min=1, help="Epochs, of --clips clips each.")] = 26,
    clips: Annotated[int, typer.Option(min=1, help="Clips an epoch, each drawn anew.")] = 10_000,
    batch: Annotated[int, typer.Option(min=2, help="Clips a step.")] = 50,
    channels: Annotated[int, typer.Option(min=16, help="Channels C of the tokens.")] = 128,
    alpha: Annotated[float, typer.Option(min=0, help="Weight of cross-modal residuals.")] = 0.5,
    steps: Annotated[int, typer.Option(min=1, max=64, help="Time steps T as served.")] = 4,
    learning_rate: Annotated[float, typer.Option(min=0, help="Greatest learning rate.")] = 3e-3,
    synthetic_takes: Annotated[
        int, typer.Option(min=0, help="Takes of each digit said by espeak-ng; 0: none.")
    ] = 300,
    development_clips: Annotated[
        int, typer.Option(min=10, help="Held-out clips that measure each epoch.")
    ] = 400,
    shares: Annotated[
        str, typer.Option(help="How often batches have both streams, or one of them alone.")
    ] = "both=0.2,visual=0.6,audio=0.2",
    slow: Annotated[
        list[str] | None,
        typer.Option(help="A stream whose weights learn at a tenth of the rate (repeatable)."),
    ] = None,
    freeze_norms: Annotated[
        bool,
        typer.Option("--freeze-norms", help="Keep the batch norms' statistics: for a last part."),
    ] = False,
    average: Annotated[
        int, typer.Option(min=0, help="Last epochs whose weights are averaged at the end.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = 0,
    begin: Annotated[
        Path | None,
        typer.Option("--from", help="A checkpoint to go on from; it may have fewer channels."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run ended.")] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that draw clips; 0: none, best on two cores.")
    ] = 0,
) -> None:
    """A digit that is seen while it is heard: real handwriting and real speech.

    Each epoch prints its accuracy on a speaker and pictures that are held out, and writes OUT/best,
    OUT/metrics.csv and TensorBoard's events. Ctrl-C ends cleanly with the best so far.
    """
    try:
        from model.checkpoint import CheckpointError
        from model.training.avdigits.dataset import DataError
        from model.training.recipe import OptionsError, TrainOptions
        from model.training.run_state import RunError
        from model.training.train import train as run
    except ModuleNotFoundError as exc:
        _end(f"{_NEEDED} ({exc.name})", 1)
    try:
        options = TrainOptions(
            data=data, out=out, epochs=epochs, clips=clips, batch=batch, embed_dim=channels,
            alpha=alpha, steps=steps, learning_rate=learning_rate, synthetic_takes=synthetic_takes,
            development_clips=development_clips, seed=seed, resume=resume, begin=begin,
            workers=workers, shares=_shares(shares), slow=tuple(slow or ()),
            freeze_norms=freeze_norms, average=average,
            command=_command(),
        )  # fmt: skip
        best = run(options)
    except (OptionsError, RunError, DataError, CheckpointError) as exc:
        _end(str(exc), UNUSABLE)
    except OSError as exc:
        _end(str(exc), 1)
    except KeyboardInterrupt as exc:
        _end(str(exc), INTERRUPTED)
    typer.echo(f"the best checkpoint is in {best}; scmrl evaluate {best} --data {data}")


def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint's folder.", metavar="CHECKPOINT")
    ],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("runs/figures"),
    clips: Annotated[int, typer.Option(min=10, help="Clips that measure accuracy.")] = 1000,
    curve_clips: Annotated[int, typer.Option(min=1, help="Clips a point of each curve.")] = 300,
    attention_clips: Annotated[int, typer.Option(min=1, help="Clips that measure maps.")] = 300,
    seed: Annotated[int, typer.Option(help="Decides the clips.")] = 7,
    device: Device = "auto",
    write_card: Annotated[
        bool, typer.Option("--write-card", help="Write the figures into the checkpoint's card.")
    ] = False,
) -> None:
    """Measure a checkpoint on a speaker and pictures that training never saw.

    Prints accuracies with 95 % intervals (both streams, each alone, under noise, over T) and
    whether the attention maps point at the digit; draws the confusion matrix and the curves.
    """
    from rich.console import Console

    from model.checkpoint import CheckpointError
    from model.training.avdigits.dataset import DataError
    from model.training.recipe import OptionsError

    try:
        from model.training.evaluate import EvaluateOptions
        from model.training.evaluate import evaluate as run
    except ModuleNotFoundError as exc:
        _end(f"{_NEEDED} ({exc.name})", 1)
    try:
        options = EvaluateOptions(
            checkpoint=checkpoint, data=data, out=out, clips=clips, curve_clips=curve_clips,
            attention_clips=attention_clips, seed=seed, device=device, write_card=write_card,
        )  # fmt: skip
        run(options, Console())
    except (OptionsError, CheckpointError, DataError) as exc:
        _end(str(exc), UNUSABLE)
    except (OSError, RuntimeError) as exc:
        _end(str(exc), 1)
    typer.echo(f"figures are in {out}")


def _shares(text: str) -> dict[str, float]:
    """The mapping that both=0.2,visual=0.6,audio=0.2 says; ends the command where it is none."""
    try:
        shares = {name: float(share) for name, share in (x.split("=") for x in text.split(","))}
    except ValueError:
        _end(f"--shares {text}: expected as in both=0.2,visual=0.6,audio=0.2", UNUSABLE)
    return shares


def _command() -> str:
    """The command as it was typed, for the card."""
    return shlex.join(["scmrl", *sys.argv[1:]])


def _end(message: str, code: int) -> NoReturn:
    typer.echo(f"scmrl: {message}", err=True)
    raise typer.Exit(code)
