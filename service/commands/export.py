"""`scmrl export onnx`: the command line of model.export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.config import MAX_STEPS
from service.commands.checkpoint_flags import Checkpoint
from service.commands.failure import UNUSABLE, fail

_NOT_INSTALLED = "the libraries for exports are not installed: pip install -e '.[onnx]'"
_EXPORT = typer.Typer(no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the command `export` and its sub-command."""
    _EXPORT.callback()(_group)
    _EXPORT.command("onnx")(onnx)
    app.add_typer(_EXPORT, name="export", help="Write a checkpoint for another runtime.")


def _group() -> None:
    """Write a checkpoint for another runtime."""


def onnx(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="File to write.", metavar="FILE.onnx")],
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_STEPS, help="Time steps T of the graph.", show_default="the card's"
        ),
    ] = None,
    streams: Annotated[
        str | None,
        typer.Option(
            help="Streams that the graph takes, such as `visual`. Fewer than all need a checkpoint "
            "with missing_streams.",
            metavar="NAME,NAME",
            show_default="all",
        ),
    ] = None,
) -> None:
    """Write a checkpoint as an ONNX graph, for ONNX Runtime and others.

    Each stream is an input, float32 [batch, T or 1, channels, height, width]. Outputs are `logits`,
    `probabilities` (by the card's temperature for this T and these streams), and the term of each
    stream, `NAME_term`: [batch, classes] each. The graph is compared with the network on noise.
    Takes about 18 s of CPU time at T = 4.
    """
    try:
        from model.checkpoint import CheckpointError, load
        from model.export.onnx_file import export_onnx

        network, card = load(checkpoint)
        names = None if streams is None else [name.strip() for name in streams.split(",")]
        exported = export_onnx(network, card, out, steps, names)
    except ModuleNotFoundError as exc:
        fail(f"{_NOT_INSTALLED} ({exc.name})", 1)
    except CheckpointError as exc:
        fail(str(exc), UNUSABLE)
    except OSError as exc:
        fail(str(exc), 1)
    for name, shape in exported.inputs.items():
        typer.echo(f"input {name}: [batch, {', '.join(map(str, shape))}]")
    typer.echo(
        f"check: {exported.agreeing} of {exported.samples} samples of noise agree within "
        f"{exported.difference:.1g}"
    )
    typer.echo(f"wrote {out}: {exported.bytes / 1e6:.1f} MB, T = {exported.steps}")
