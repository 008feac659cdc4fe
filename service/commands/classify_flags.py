"""The flags of `scmrl classify`; commands that classify other input share some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.config import MAX_STEPS
from service.classification import options

Clips = Annotated[list[Path] | None, typer.Argument(help="Clips: mp4, webm, …", metavar="CLIP")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Name of a checkpoint in --models, or a checkpoint's folder; default: avdigits, "
        "or the only checkpoint in --models; with --url, the server's.",
        envvar="SCMRL_DEFAULT_MODEL",
    ),
]
Models = Annotated[
    Path,
    typer.Option(
        help="Folder of checkpoints.", envvar="SCMRL_MODELS", show_default="the embedded ones"
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_STEPS, help="Time steps T; default: the checkpoint's own."),
]
TopK = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of labels to show, most probable first; default: 5, in JSON all."
    ),
]
Contributions = Annotated[
    options.Contributions,
    typer.Option(
        help="tower: the terms of the logits by stream. leave_one_out: also the change of each "
        "logit when a stream is left out; the network runs once more for each stream."
    ),
]
AbstainBelow = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Give no label where the highest probability is lower; default: the checkpoint's.",
    ),
]
AbstainBeyond = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Give no label where the out-of-distribution score is higher; default: the "
        "checkpoint's.",
    ),
]
StepsTrace = Annotated[
    bool,
    typer.Option("--steps-trace", metavar="", help="Show the answer after each time step as well."),
]
ExitMargin = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Stop after 1, 2, 4, … time steps where the highest probability exceeds the next "
        "by this much; default: run all steps.",
    ),
]
Overlay = Annotated[
    Path | None,
    typer.Option(
        metavar="OUT.png",
        help="Write the attention maps over frame and spectrogram, side by side; for several "
        "clips, one OUT-CLIP.png each.",
    ),
]
ClassActivation = Annotated[
    Path | None,
    typer.Option(
        metavar="OUT.png",
        help="Write what each part of frame and spectrogram adds to the logit of the most probable "
        "label, as --overlay writes attention.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", metavar="", help="Print each answer as a line of JSON.")
]
Url = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Let the server at this address classify."),
]
