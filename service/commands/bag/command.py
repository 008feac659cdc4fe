"""The command and its options."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands import classifiers, remote
from service.commands import classify_flags as flags
from service.commands.classifiers import ClipClassifier
from service.commands.device import Device
from service.default_checkpoint import WEIGHTS

if TYPE_CHECKING:
    from service.classification.schemas import Classification
    from service.commands.bag.recording import Recording
    from service.commands.bag.windows import Window

HELP = """Classify a ROS 2 recording (.mcap, or a folder with .mcap or .db3), without ROS.

Pictures come from a topic of type sensor_msgs/CompressedImage or sensor_msgs/Image, sound from one
of type audio_common_msgs/AudioData or AudioDataStamped. Each window is classified as a clip. Times
are the stamps of the messages, or of the recording where messages have none. Needs the extra
`robots` (`pip install 'scmrl[robots]'`).

Examples:

    scmrl bag RECORDING.mcap

    scmrl bag RECORDING --image /camera/image_raw/compressed --audio /audio --hop 1 --json

    scmrl bag RECORDING.mcap --url http://gpu-box:8000
"""
#: Hops in a window, by default.
_HOPS = 4


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("bag", help=HELP)(bag)


@dataclass(frozen=True)
class Outcome:
    """The answer for a window, or the document of the problem with it."""

    window: Window
    answer: Classification | Mapping[str, Any]


def bag(
    recording: Annotated[
        Path,
        typer.Argument(metavar="RECORDING", help="A .mcap file, or the folder of a recording."),
    ],
    image: Annotated[
        str | None,
        typer.Option(metavar="TOPIC", help="Topic of the pictures; default: the only one."),
    ] = None,
    audio: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="Topic of the sound; default: the only one.")
    ] = None,
    window: Annotated[
        float, typer.Option(min=0.1, max=60, help="Seconds that an answer is about.")
    ] = 2.0,
    hop: Annotated[
        float | None,
        typer.Option(min=0.05, help="Seconds between two answers; default: a quarter of a window."),
    ] = None,
    audio_format: Annotated[
        str,
        typer.Option(
            help="pcm16, or a decoder of FFmpeg such as mp3; auto: from AudioInfo or the data."
        ),
    ] = "auto",
    sample_rate: Annotated[
        int, typer.Option(min=1000, help="Sample rate of pcm16 in Hz, without AudioInfo.")
    ] = 16_000,
    channels: Annotated[
        int, typer.Option(min=1, max=16, help="Channels of pcm16, without AudioInfo.")
    ] = 1,
    log_time: Annotated[
        bool,
        typer.Option(
            "--log-time", metavar="", help="Use the times of the recording, not the stamps."
        ),
    ] = False,
    model: flags.Model = None,
    models: flags.Models = WEIGHTS,
    steps: flags.Steps = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print each window as a line of JSON.")
    ] = False,
    device: Device = "auto",
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Let the server at this address classify.")
    ] = None,
    key: remote.Key = None,
) -> None:
    """Run the command, whose help is HELP."""
    from service.commands.bag import recording as recordings

    sound = recordings.SoundFormat(audio_format, sample_rate, channels)
    choice = recordings.Choice(image, audio, sound, log_time)
    outcomes = []
    try:
        with ExitStack() as stack:
            reader = stack.enter_context(recordings.open_recording(recording, choice))
            classifier = classifiers.connect_or_load(
                stack, url=url, key=key, model=model, models=models, device=device
            )
            for outcome in _classify(classifier, reader, window, hop or window / _HOPS, steps):
                outcomes.append(outcome)
                if as_json:
                    typer.echo(_json_line(outcome))
    except recordings.RecordingError as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(1) from exc
    if not as_json:
        _show(outcomes)
    raise typer.Exit(1 if any(isinstance(outcome.answer, Mapping) for outcome in outcomes) else 0)


def _classify(
    classifier: ClipClassifier, reader: Recording, window_s: float, hop_s: float, steps: int | None
) -> Iterator[Outcome]:
    """Yield the outcome of each window; without `steps`, at the checkpoint's T.

    Raises RecordingError.
    """
    from service.classification.options import Options
    from service.commands.bag import windows

    options = Options(steps=steps, attention="none")
    for window in windows.cut(reader, window_s, hop_s, steps or classifier.steps()):
        yield Outcome(window, classifier.classify(window.files, options))


def _json_line(outcome: Outcome) -> str:
    window = outcome.window
    members: dict[str, Any] = {"begin_ns": window.begin_ns, "end_ns": window.end_ns}
    if isinstance(outcome.answer, Mapping):
        return json.dumps(members | {"error": dict(outcome.answer)})
    return json.dumps(members | outcome.answer.model_dump(exclude_none=True))


def _show(outcomes: list[Outcome]) -> None:
    """Print a line for each window. Times are seconds from the start of the first one."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=f"{len(outcomes)} window{'' if len(outcomes) == 1 else 's'}", title_justify="left"
    )
    for heading in ("from s", "to s", "stamp of the end", "label", "probability"):
        table.add_column(heading, justify="left" if heading == "label" else "right")
    first_ns = outcomes[0].window.begin_ns if outcomes else 0
    for outcome in outcomes:
        window = outcome.window
        times = [f"{(ns - first_ns) / 1e9:.2f}" for ns in (window.begin_ns, window.end_ns)]
        times.append(f"{window.end_ns // 10**9}.{window.end_ns % 10**9:09d}")
        if isinstance(outcome.answer, Mapping):
            table.add_row(*times, escape(str(outcome.answer["detail"])), "")
            continue
        prediction = outcome.answer.prediction
        label = "no answer" if prediction.label is None else escape(prediction.label)
        table.add_row(*times, label, f"{prediction.probability:.1%}")
    Console().print(table)
