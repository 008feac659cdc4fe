"""`scmrl classify`: classify files, without a server or by one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.classification import upload_fields
from service.classification.options import MapDetail
from service.classification.upload_fields import UploadField
from service.commands import classifiers, overlay_files, remote
from service.commands import classify_flags as flags
from service.commands.classifiers import ClipClassifier
from service.commands.device import Device
from service.commands.overlay_files import Outcome
from service.default_checkpoint import WEIGHTS

if TYPE_CHECKING:
    from service.classification.options import Options

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
    option = typer.Option(_flag_name(row.name), metavar="FILE", help=row.description + repeat)
    return inspect.Parameter(
        row.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[list[Path] | None, option],
    )


def _flag_name(field: str) -> str:
    return "--" + field.replace("_", "-")


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


def classify(
    clips: flags.Clips = None,
    model: flags.Model = None,
    models: flags.Models = WEIGHTS,
    steps: flags.Steps = None,
    top_k: flags.TopK = None,
    contributions: flags.Contributions = "tower",
    abstain_below: flags.AbstainBelow = None,
    abstain_beyond: flags.AbstainBeyond = None,
    steps_trace: flags.StepsTrace = False,
    exit_margin: flags.ExitMargin = None,
    overlay: flags.Overlay = None,
    class_activation: flags.ClassActivation = None,
    as_json: flags.AsJson = False,
    device: Device = "auto",
    url: flags.Url = None,
    key: remote.Key = None,
    *,
    files: Mapping[str, Sequence[Path]],
) -> None:
    """Run the command, whose help is HELP. `files`: of the flags, by upload field."""
    from service.classification.options import Options
    from service.commands import answer_table

    overlay_files.check_names({"--overlay": overlay, "--class-activation": class_activation})
    requests = _requests(clips or [], files)
    detail: MapDetail = "overlay" if overlay else "grid" if as_json else "none"
    options = Options(
        steps=steps,
        top_k=top_k,
        attention=detail,
        class_activation="overlay" if class_activation else "none",
        contributions=contributions,
        abstain_below=abstain_below,
        abstain_beyond=abstain_beyond,
        steps_trace=steps_trace,
        exit_margin=exit_margin,
    )
    outcomes = []
    with ExitStack() as stack:
        classifier = classifiers.connect_or_load(
            stack, url=url, key=key, model=model, models=models, device=device
        )
        for outcome in _outcomes(classifier, requests, options):
            outcomes.append(outcome)
            if as_json:
                typer.echo(_json_line(outcome))
            elif outcome.problem is not None:
                typer.echo(f"{outcome.clip}: {outcome.problem['detail']}", err=True)
    if not as_json:
        answer_table.show([(o.clip, o.answer) for o in outcomes if o.answer], top_k or 5)
    written = [
        write(out, outcomes, as_json)
        for out, write in (
            (overlay, overlay_files.write_attention),
            (class_activation, overlay_files.write_class_activation),
        )
        if out
    ]
    failed = not all(written) or any(outcome.problem for outcome in outcomes)
    raise typer.Exit(1 if failed else 0)


#: The files of one clip, by upload field.
_Request = Mapping[str, Sequence[Path]]


def _requests(clips: Sequence[Path], files: _Request) -> list[_Request]:
    """Return what to classify: each clip, or one clip together with the flags' files."""
    files = {name: paths for name, paths in files.items() if paths}
    if not files and not clips:
        names = ", ".join(_flag_name(row.name) for row in upload_fields.FIELDS if row.name != _CLIP)
        raise typer.BadParameter(
            f"no file; pass clips, or {names} or --stream NAME=FILE", param_hint="CLIP"
        )
    if not files:
        return [{_CLIP: [clip]} for clip in clips]
    if len(clips) > 1:
        names = ", ".join(map(_flag_name, files))
        raise typer.BadParameter(f"{names}: needs a single clip, not {len(clips)}")
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
