"""`scmrl classify`: classify files, without a server or by one."""

from __future__ import annotations

import base64
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.config import MAX_STEPS
from service.classification import upload_fields
from service.classification.options import AttentionDetail, Contributions
from service.classification.upload_fields import UploadField
from service.commands import classifiers, remote
from service.commands.classifiers import ClipClassifier
from service.commands.device import Device
from service.settings import WEIGHTS, default_model

if TYPE_CHECKING:
    from service.classification.options import Options
    from service.classification.schemas import Classification

HELP = """Classify clips on this machine, or with --url by a server.

Prints a table, or with --json one answer per line, as POST /v1/classify returns it. A clip that
cannot be used is reported, and the others are classified; the exit code is then 1.

The streams of one clip can also be in several files, as in the form of POST /v1/classify.

Examples:

    scmrl classify tests/data/clips/digit-7.webm

    scmrl classify tests/data/clips/*.mp4 --json

    scmrl classify CLIP.mp4 --overlay maps.png --steps 8

    scmrl classify --video SILENT.mp4 --audio VOICE.wav

    scmrl classify --model NAME CLIP.mp4 --stream tactile=PEN.csv

    scmrl classify *.mp4 --url http://gpu-box:8000 --key @key.txt
"""
#: The upload field of the command's arguments; each other field is a flag.
_CLIP = "clip"


def register(app: typer.Typer) -> None:
    """Add the command to `app`, with a flag for each upload field."""

    def command(**arguments: Any) -> None:
        files = {row.name: arguments.pop(row.name) or [] for row in rows}
        for name, path in map(_stream_file, arguments.pop("stream") or []):
            files[name] = [*files.get(name, []), path]
        classify(**arguments, files=files)

    rows = [row for row in upload_fields.FIELDS if row.name != _CLIP]
    own = inspect.signature(classify, eval_str=True).parameters.values()
    parameters = [parameter for parameter in own if parameter.name != "files"]
    parameters += [*map(_flag, rows), _STREAM_FLAG]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command("classify", help=HELP)(command)


def _flag(row: UploadField) -> inspect.Parameter:
    """Return the command's parameter for an upload field."""
    repeat = " Repeat the flag for each." if row.max_files else ""
    flag = f"--{row.name.replace('_', '-')}"
    option = typer.Option(flag, metavar="FILE", help=row.description + repeat)
    return inspect.Parameter(
        row.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[list[Path] | None, option],
    )


#: The command's parameter for the files of streams by their names, which the card decides.
_STREAM_FLAG = inspect.Parameter(
    "stream",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="The file of the stream of this name in the checkpoint's card. Repeat the flag "
            "for each.",
        ),
    ],
)


def _stream_file(text: str) -> tuple[str, Path]:
    """Return the stream and the file of NAME=FILE."""
    name, is_pair, file = text.partition("=")
    if not is_pair or not name or not file:
        raise typer.BadParameter(f"{text!r}: must be NAME=FILE", param_hint="--stream")
    return name, Path(file)


@dataclass(frozen=True)
class Outcome:
    """The answer for one clip, or the document of the problem with it. `clip`: its first file."""

    clip: Path
    answer: Classification | None = None
    problem: Mapping[str, Any] | None = None


def classify(
    clips: Annotated[
        list[Path] | None, typer.Argument(help="Clips: mp4, webm, …", metavar="[CLIP]…")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Name of a checkpoint in --models, or a checkpoint's folder; default: avdigits, "
            "or the only checkpoint in --models; with --url, the server's.",
            envvar="SCMRL_DEFAULT_MODEL",
        ),
    ] = None,
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
    contributions: Annotated[
        Contributions,
        typer.Option(
            help="tower: the terms of the logits by stream. leave_one_out: also the change of each "
            "logit when a stream is left out; the network runs once more for each stream."
        ),
    ] = "tower",
    abstain_below: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Give no label where the highest probability is lower; default: the checkpoint's.",
        ),
    ] = None,
    abstain_beyond: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Give no label where the out-of-domain score is higher; default: the "
            "checkpoint's.",
        ),
    ] = None,
    steps_trace: Annotated[
        bool,
        typer.Option("--steps-trace", help="Show the answer after each time step as well."),
    ] = False,
    exit_margin: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Stop after 1, 2, 4, … time steps where the highest probability exceeds the next "
            "by this much; default: run all steps.",
        ),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.png",
            help="Write the attention maps over frame and spectrogram, side by side; for several "
            "clips, one OUT-CLIP.png each.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per clip and line.")
    ] = False,
    device: Device = "auto",
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Let the server at this address classify."),
    ] = None,
    key: remote.Key = None,
    *,
    files: Mapping[str, Sequence[Path]],
) -> None:
    """Run the command, whose help is HELP. `files`: of the flags, by upload field."""
    from service.classification.options import Options
    from service.commands import answer_table

    requests = _requests(clips or [], files)
    detail: AttentionDetail = "overlay" if overlay else "grid" if as_json else "none"
    options = Options(
        steps=steps,
        top_k=top_k,
        attention=detail,
        contributions=contributions,
        abstain_below=abstain_below,
        abstain_beyond=abstain_beyond,
        steps_trace=steps_trace,
        exit_margin=exit_margin,
    )
    outcomes = []
    with ExitStack() as stack:
        classifier: ClipClassifier = (
            classifiers.connect(stack, url, key, model)
            if url
            else classifiers.load(model or default_model(models), models, device)
        )
        for outcome in _outcomes(classifier, requests, options):
            outcomes.append(outcome)
            if as_json:
                typer.echo(_json_line(outcome))
            elif outcome.problem is not None:
                typer.echo(f"{outcome.clip}: {outcome.problem['detail']}", err=True)
    if not as_json:
        answer_table.show([(o.clip, o.answer) for o in outcomes if o.answer], top_k or 5)
    unwritten = overlay and not _write_overlays(overlay, outcomes, quiet=as_json)
    failed = unwritten or any(outcome.problem for outcome in outcomes)
    raise typer.Exit(1 if failed else 0)


#: The files of one clip, by upload field.
_Request = Mapping[str, Sequence[Path]]


def _requests(clips: Sequence[Path], files: _Request) -> list[_Request]:
    """Return what to classify: each clip, or one clip together with the flags' files."""
    files = {name: paths for name, paths in files.items() if paths}
    if not files and not clips:
        flags = ", ".join(f"--{row.name}" for row in upload_fields.FIELDS if row.name != _CLIP)
        raise typer.BadParameter(
            f"no file; pass clips, or {flags} or --stream NAME=FILE", param_hint="CLIP"
        )
    if not files:
        return [{_CLIP: [clip]} for clip in clips]
    if len(clips) > 1:
        flags = ", ".join(f"--{name}" for name in files)
        raise typer.BadParameter(f"{flags}: needs a single clip, not {len(clips)}")
    return [{_CLIP: clips, **files} if clips else files]


def _outcomes(
    classifier: ClipClassifier, requests: Sequence[_Request], options: Options
) -> Iterator[Outcome]:
    """Classify one after the other, under a progress bar where there are several."""
    from rich.console import Console
    from rich.progress import track

    tracked = track(
        requests,
        description="Classifying",
        console=Console(stderr=True),
        transient=True,
        disable=len(requests) < 2,
    )
    for request in tracked:
        yield _classify(classifier, request, options)


def _classify(classifier: ClipClassifier, request: _Request, options: Options) -> Outcome:
    from service.errors import Error, Problem
    from service.http.problem_document import make_document

    clip = next(path for paths in request.values() for path in paths)
    try:
        files = {name: [path.read_bytes() for path in paths] for name, paths in request.items()}
    except OSError as exc:
        prefix = "" if str(exc.filename) == str(clip) else f"{exc.filename}: "
        problem = Problem(Error.UNUSABLE, f"{prefix}{exc.strerror}.")
        return Outcome(clip, problem=make_document(problem))
    answer = classifier.classify(files, options)
    if isinstance(answer, Mapping):
        return Outcome(clip, problem=answer)
    return Outcome(clip, answer=answer)


def _json_line(outcome: Outcome) -> str:
    members: dict[str, Any] = {"clip": str(outcome.clip)}
    if outcome.answer is not None:
        return json.dumps(members | outcome.answer.model_dump(exclude_none=True))
    return json.dumps(members | {"error": outcome.problem})


def _write_overlays(out: Path, outcomes: Sequence[Outcome], quiet: bool) -> bool:
    """Write the overlays of each clip that has an answer; return whether that succeeded."""
    from service.commands.join_pictures import side_by_side

    used: set[Path] = set()
    for outcome in outcomes:
        if outcome.answer is None:
            continue
        maps = outcome.answer.attention or {}
        pngs = [base64.b64decode(m.overlay_png) for m in maps.values() if m.overlay_png]
        if not pngs:
            typer.echo(f"{outcome.clip}: no maps, which need both sound and picture", err=True)
            continue
        path = _overlay_path(out, outcome.clip if len(outcomes) > 1 else None, used)
        try:
            path.write_bytes(side_by_side(pngs))
        except OSError as exc:
            typer.echo(f"cannot write {path}: {exc.strerror}", err=True)
            return False
        if not quiet:
            typer.echo(f"wrote {path}")
    return True


def _overlay_path(out: Path, clip: Path | None, used: set[Path]) -> Path:
    """Return OUT.png for one clip; else OUT-CLIP.png, numbered where clips have the same name."""
    if clip is None:
        return out
    path, number = out.with_name(f"{out.stem}-{clip.stem}{out.suffix}"), 2
    while path in used:
        path = out.with_name(f"{out.stem}-{clip.stem}-{number}{out.suffix}")
        number += 1
    used.add(path)
    return path
