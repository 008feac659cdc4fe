"""The command and its options."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.config import MAX_STEPS
from service.commands.remote import DEFAULT_URL, Key, Url, make_client, reporting_errors

if TYPE_CHECKING:
    from service.client.stream_messages import StreamFields
    from service.commands.watch.capture import Source

HELP = """Classify live, by a server: a camera, a microphone, an address, or a file in real time.

Sends pictures and sound over WS /v1/stream, and shows label, probabilities and how far the answer
is behind the capture. Ctrl-C ends it.

SOURCE is a file, played in real time, or an address that FFmpeg reads (rtsp://, udp://, http://,
…). Cameras and microphones are named as the system has them: /dev/video0 and default on Linux
(v4l2, ALSA), 0 on macOS, the device's name on Windows.

Examples:

    scmrl watch --camera /dev/video0 --microphone default

    scmrl watch rtsp://192.168.1.20/stream --url http://gpu-box:8000 --key @key.txt

    scmrl watch tests/data/clips/digit-7.mp4 --json
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("watch", help=HELP)(watch)


def watch(
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE", help="A file, or an address: rtsp://, udp://, …"),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Camera that takes the pictures.")
    ] = None,
    microphone: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Microphone that takes the sound.")
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    model: Annotated[
        str | None, typer.Option(help="Name of a checkpoint; default: the server's.")
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=60, help="Seconds that an answer is about; default: the server's."
        ),
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(min=0.05, max=60, help="Seconds between two answers; default: the server's."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_STEPS, help="Time steps T; default: the checkpoint's."),
    ] = None,
    smoothing: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Weight of earlier answers in the smoothed bars."),
    ] = 0.5,
    top_k: Annotated[
        int, typer.Option(min=1, help="Number of labels to show, most probable first.")
    ] = 10,
    fps: Annotated[
        float, typer.Option(min=0.1, max=60, help="Maximum pictures sent per second.")
    ] = 12,
    width: Annotated[
        int, typer.Option(min=16, max=1920, help="Longest side of the pictures sent, in pixels.")
    ] = 320,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Option of FFmpeg for the sources. Repeat the flag for each."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print each answer as a line of JSON.")
    ] = False,
) -> None:
    """Run the command, whose help is HELP."""
    from service.commands.watch import view
    from service.commands.watch.session import Session

    fields: StreamFields = {
        "model": model, "window_s": window, "hop_s": hop, "steps": steps, "smoothing": smoothing,
    }  # fmt: skip
    with ExitStack() as stack, reporting_errors():
        client = stack.enter_context(make_client(url, key))
        sources = _open(stack, source, camera, microphone, _options(option or []))
        session = Session(sources, fps=fps, width=width)
        stream = stack.enter_context(client.stream(session.inputs, **fields))
        name = ", ".join(part for part in (source, camera, microphone) if part)
        shown = view.Lines() if as_json else view.Screen(name, top_k, sys.stdout.isatty())
        with shown:
            summary = session.run(stream, shown.show)
        for failure in session.failures:
            typer.echo(failure, err=True)
    if summary is None or not summary.answers:
        typer.echo("no answer: the source ended too soon", err=True)
        raise typer.Exit(1)


def _options(pairs: list[str]) -> dict[str, str]:
    options = {}
    for pair in pairs:
        name, is_pair, value = pair.partition("=")
        if not is_pair:
            raise typer.BadParameter(f"{pair!r}: must be NAME=VALUE", param_hint="--option")
        options[name] = value
    return options


def _open(
    stack: ExitStack,
    source: str | None,
    camera: str | None,
    microphone: str | None,
    options: dict[str, str],
) -> list[Source]:
    """Open what is to be watched; `stack` closes it."""
    from service.commands.watch import capture

    if source is None and camera is None and microphone is None:
        raise typer.BadParameter(
            "nothing to watch; pass a SOURCE, --camera or --microphone", param_hint="SOURCE"
        )
    if source is not None and (camera is not None or microphone is not None):
        raise typer.BadParameter(
            "pass a SOURCE, or --camera and --microphone, not both", param_hint="SOURCE"
        )
    try:
        sources = []
        if source is not None and "://" in source:
            sources.append(capture.open_address(source, options))
        elif source is not None:
            sources.append(capture.open_file(Path(source), options))
        if camera is not None:
            sources.append(capture.open_device("video", camera, options))
        if microphone is not None:
            sources.append(capture.open_device("audio", microphone, options))
    except capture.CaptureError as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(1) from exc
    for opened in sources:
        stack.callback(opened.close)
    return sources
