"""Answers as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.classification.schemas import Classification, Stream

_BAR = 24  # characters of a probability of 1


def show(answers: Sequence[tuple[Path, Classification]], top_k: int) -> None:
    """One clip in detail; several with a line each."""
    console = Console()
    if len(answers) == 1:
        console.print(_detailed(*answers[0], top_k))
    elif answers:
        console.print(_summary(answers))


def _detailed(clip: Path, answer: Classification, top_k: int) -> Table:
    """The most probable labels, and what each stream adds to their logits."""
    found = answer.prediction
    table = Table(
        title=f"{escape(clip.name)}: [bold]{escape(found.label)}[/bold] ({found.probability:.1%})",
        caption=escape(_caption(answer)),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("label")
    table.add_column("probability", justify="right")
    table.add_column("", min_width=_BAR)
    for stream in answer.contributions:
        table.add_column(stream, justify="right")
    table.add_column("= logit", justify="right")
    for ranked in answer.probabilities[:top_k]:
        shares = [stream[ranked.label] for stream in answer.contributions.values()]
        table.add_row(
            escape(ranked.label),
            f"{ranked.probability:.2%}",
            "█" * round(_BAR * ranked.probability),
            *(f"{share:+.2f}" for share in shares),
            f"{sum(shares):+.2f}",
        )
    return table


def _summary(answers: Sequence[tuple[Path, Classification]]) -> Table:
    """A line a clip: its label and what each stream adds to that label's logit."""
    table = Table(title=f"{len(answers)} clips", title_justify="left")
    table.add_column("clip", overflow="fold")
    table.add_column("label")
    table.add_column("probability", justify="right")
    streams = list(answers[0][1].streams)
    for stream in streams:
        table.add_column(stream, justify="right")
    table.add_column("ms", justify="right")
    for clip, answer in answers:
        label = answer.prediction.label
        shares = [
            f"{answer.contributions[name][label]:+.2f}" if answer.streams[name].used else "missing"
            for name in streams
        ]
        probability = f"{answer.prediction.probability:.1%}"
        name, ms = escape(str(clip)), f"{answer.timing_ms.total:.0f}"
        table.add_row(name, escape(label), probability, *shares, ms)
    return table


def _caption(answer: Classification) -> str:
    streams = [f"{name}: {_described(stream)}" for name, stream in answer.streams.items()]
    ran = f"{answer.model.name} {answer.model.version}, T = {answer.steps}"
    return "\n".join([*streams, f"{ran}, {answer.timing_ms.total:.0f} ms"])


def _described(stream: Stream) -> str:
    if not stream.used:
        return f"not used ({stream.reason})"
    if stream.sample_rate is not None:
        return f"{stream.duration_s:.2f} s at {stream.sample_rate} Hz"
    return f"{stream.frames} pictures of {stream.width} x {stream.height}"
