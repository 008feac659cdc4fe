"""`scmrl classify`: clips to answers without a server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.config import MAX_STEPS
from service.commands.device import Device
from service.settings import WEIGHTS

if TYPE_CHECKING:
    from service.classification.local import Classifier
    from service.classification.schemas import Classification
    from service.errors import Problem
    from service.http.form import Options

HELP = """Classify clips here, without a server.

Prints a table a person can read, or with --json one answer a line as POST /v1/classify gives it.
A clip that cannot be used is told of, and the others go on; the exit code is then 1.

Examples:

    scmrl classify tests/data/clips/digit-7.webm

    scmrl classify tests/data/clips/*.mp4 --json

    scmrl classify CLIP.mp4 --overlay maps.png --steps 8
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("classify", help=HELP)(classify)


@dataclass(frozen=True)
class Outcome:
    """What became of one clip: its answer, or the problem with it."""

    clip: Path
    answer: Classification | None = None
    problem: Problem | None = None


def classify(
    clips: Annotated[list[Path], typer.Argument(help="Clips: mp4, webm, …", metavar="CLIP…")],
    model: Annotated[
        str, typer.Option(help="Name of a checkpoint, or its folder.", envvar="SCMRL_DEFAULT_MODEL")
    ] = "avdigits",
    models: Annotated[
        Path, typer.Option(help="Folder of checkpoints.", envvar="SCMRL_MODELS")
    ] = WEIGHTS,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_STEPS, help="Time steps T; default: the checkpoint's own."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Most probable labels to show; default: 5, JSON: all.")
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.png",
            help="Write the attention maps over picture and sound, side by side; with several "
            "clips OUT-CLIP.png each.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a clip and line.")
    ] = False,
    device: Device = "auto",
) -> None:
    """The command; its help is HELP."""
    from service.commands import answer_table
    from service.http.form import Options

    classifier = _load(model, models, device)
    maps = "overlay" if overlay else "grid" if as_json else "none"
    options = Options(steps=steps, top_k=top_k, attention=maps)  # type: ignore[arg-type]
    outcomes = []
    for outcome in _outcomes(classifier, clips, options):
        outcomes.append(outcome)
        if as_json:
            typer.echo(_json_line(outcome))
        elif outcome.problem is not None:
            typer.echo(f"{outcome.clip}: {outcome.problem.detail}", err=True)
    if not as_json:
        answer_table.show([(o.clip, o.answer) for o in outcomes if o.answer], top_k or 5)
    unwritten = overlay and not _write_overlays(overlay, outcomes, quiet=as_json)
    failed = unwritten or any(outcome.problem for outcome in outcomes)
    raise typer.Exit(1 if failed else 0)


def _load(model: str, models: Path, device: str) -> Classifier:
    from service.runtime import cores, gc
    from service.runtime.torch_import import import_torch

    with gc.uncollected():
        import_torch()
        from model.checkpoint import CheckpointError
        from service.classification.local import Classifier

    cores.set_threads(cores.threads(0))
    cores.set_opencv_threads()
    folder = Path(model) if (Path(model) / "card.json").exists() else models / model
    try:
        return Classifier(folder, device)
    except (CheckpointError, RuntimeError, ValueError) as exc:
        typer.echo(f"cannot use the checkpoint {model}: {exc}", err=True)
        raise typer.Exit(1) from exc


def _outcomes(classifier: Classifier, clips: Sequence[Path], options: Options) -> Iterator[Outcome]:
    """Classify one after the other, under a progress bar where there are several."""
    from rich.console import Console
    from rich.progress import track

    shown = track(
        clips,
        description="Classifying",
        console=Console(stderr=True),
        transient=True,
        disable=len(clips) < 2,
    )
    for clip in shown:
        yield _outcome(classifier, clip, options)


def _outcome(classifier: Classifier, clip: Path, options: Options) -> Outcome:
    from service.errors import Error, Problem

    try:
        data = clip.read_bytes()
    except OSError as exc:
        return Outcome(clip, problem=Problem(Error.UNUSABLE, f"{exc.strerror}."))
    if not data:
        return Outcome(clip, problem=Problem(Error.UNUSABLE, "The file is empty."))
    try:
        return Outcome(clip, answer=classifier.classify(data, options))
    except Problem as exc:
        return Outcome(clip, problem=exc)


def _json_line(outcome: Outcome) -> str:
    told = {"clip": str(outcome.clip)}
    if outcome.answer is not None:
        return json.dumps(told | outcome.answer.model_dump(exclude_none=True))
    assert outcome.problem is not None
    return json.dumps(told | {"error": outcome.problem.body()})


def _write_overlays(out: Path, outcomes: Sequence[Outcome], quiet: bool) -> bool:
    """Write what was drawn of each clip that has an answer; whether all of it could be."""
    from service.commands.figure import side_by_side

    taken: set[Path] = set()
    for outcome in outcomes:
        if outcome.answer is None:
            continue
        maps = outcome.answer.attention or {}
        drawn = [base64.b64decode(m.overlay_png) for m in maps.values() if m.overlay_png]
        if not drawn:
            typer.echo(f"{outcome.clip}: no maps to draw: they need sound and picture", err=True)
            continue
        path = _overlay_path(out, outcome.clip if len(outcomes) > 1 else None, taken)
        try:
            path.write_bytes(side_by_side(drawn))
        except OSError as exc:
            typer.echo(f"cannot write {path}: {exc.strerror}", err=True)
            return False
        if not quiet:
            typer.echo(f"wrote {path}")
    return True


def _overlay_path(out: Path, clip: Path | None, taken: set[Path]) -> Path:
    """OUT.png for one clip; OUT-CLIP.png of several, numbered where two have the same name."""
    if clip is None:
        return out
    path, number = out.with_name(f"{out.stem}-{clip.stem}{out.suffix}"), 2
    while path in taken:
        path = out.with_name(f"{out.stem}-{clip.stem}-{number}{out.suffix}")
        number += 1
    taken.add(path)
    return path
