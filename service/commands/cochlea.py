"""`scmrl cochlea`: a sound to the events of a simulated cochlea."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.failure import UNUSABLE, fail


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("cochlea")(cochlea)


def cochlea(
    sound: Annotated[
        Path,
        typer.Argument(metavar="SOUND", help="A sound (wav, flac, mp3, …) or a video with sound."),
    ],
    out: Annotated[
        Path, typer.Option(help="The file to write: .npz of `channel` and `t` in microseconds.")
    ],
) -> None:
    """Convert a sound to events of a simulated cochlea: `audio_events` for *ndigits-events*.

    The cochlea has 32 gammatone filters, each followed by an integrate-and-fire neuron
    (model/preprocess/cochlea.py).
    """
    from model.media.events.npz import pack_channels
    from model.media.reader import read_sound
    from model.media.types import MediaError
    from model.preprocess.cochlea import BANDS, sound_to_events

    try:
        events = sound_to_events(read_sound(sound.read_bytes()))
    except MediaError as exc:
        fail(f"{sound}: {exc.detail}", UNUSABLE)
    except OSError as exc:
        fail(f"{sound}: {exc.strerror}", UNUSABLE)
    if not len(events.channel):
        fail(f"{sound}: the cochlea hears nothing in it", UNUSABLE)
    try:
        out.write_bytes(pack_channels(events))
    except OSError as exc:
        fail(f"--out {out}: {exc.strerror}", UNUSABLE)
    typer.echo(f"wrote {out}: {len(events.channel)} events of {BANDS} channels")
