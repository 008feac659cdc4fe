"""Tables of classifications, for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.classification.schemas import Classification, Stream

#: Characters of a bar for a probability of 1: the first that fits the terminal; 0: no bars.
_BAR_WIDTHS = (24, 16, 8, 0)


def show(answers: Sequence[tuple[Path, Classification]], top_k: int) -> None:
    """Print one clip in detail, or several with one line each."""
    console = Console()
    if len(answers) == 1:
        console.print(fitted(console, lambda width: _detail_table(*answers[0], top_k, width)))
    elif answers:
        console.print(_summary_table(answers))


def fitted(console: Console, make: Callable[[int], Table]) -> Table:
    """Return the table with the widest bars that fit. `make`: from the width of its bars."""
    unlimited = console.options.update(max_width=1000)  # else the console limits what is measured
    for width in _BAR_WIDTHS:
        table = make(width)
        if console.measure(table, options=unlimited).maximum <= console.width:
            break
    return table


def _detail_table(clip: Path, answer: Classification, top_k: int, bar_width: int) -> Table:
    """Return the most probable labels, with the contribution of each stream to their logits."""
    prediction = answer.prediction
    table = Table(
        title=f"{escape(clip.name)}: [bold]{_label(answer)}[/bold] ({prediction.probability:.1%})",
        caption=escape(_caption(answer)),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("label")
    table.add_column("probability", justify="right")
    changes = _changes(answer)
    if bar_width:
        table.add_column("", min_width=bar_width)
    for stream in answer.contributions:
        table.add_column(stream, justify="right")
    table.add_column("= logit", justify="right")
    for stream in changes:
        table.add_column(f"Δ {stream}", justify="right")
    for ranked in answer.probabilities[:top_k]:
        contributions = [stream[ranked.label] for stream in answer.contributions.values()]
        table.add_row(
            escape(ranked.label),
            f"{ranked.probability:.2%}",
            *(["█" * round(bar_width * ranked.probability)] if bar_width else []),
            *(f"{value:+z.2f}" for value in contributions),
            f"{sum(contributions):+z.2f}",
            *(f"{stream[ranked.label]:+z.2f}" for stream in changes.values()),
        )
    return table


def _summary_table(answers: Sequence[tuple[Path, Classification]]) -> Table:
    """Return a line per clip: its label, and the contribution of each stream to its logit, or what
    each stream changes of it where that was requested."""
    is_change = any(answer.leave_one_out for _, answer in answers)
    title = f"{len(answers)} clips" + ("; logit of all streams - without each" * is_change)
    table = Table(title=title, title_justify="left")
    table.add_column("clip", overflow="fold")
    table.add_column("label")
    table.add_column("probability", justify="right")
    streams = list(answers[0][1].streams)
    for stream in streams:
        table.add_column(stream, justify="right")
    table.add_column("ms", justify="right")
    for clip, answer in answers:
        label = answer.probabilities[0].label
        terms = _changes(answer) if is_change else answer.contributions
        contributions = [
            ("only" if is_change and not terms else f"{terms[name][label]:+z.2f}")
            if answer.streams[name].used
            else "missing"
            for name in streams
        ]
        probability = f"{answer.prediction.probability:.1%}"
        name, ms = escape(str(clip)), f"{answer.timing_ms.total:.0f}"
        table.add_row(name, _label(answer), probability, *contributions, ms)
    return table


def _label(answer: Classification) -> str:
    return "no label" if answer.prediction.label is None else escape(answer.prediction.label)


def _changes(answer: Classification) -> dict[str, dict[str, float]]:
    """Return the changes of the logits by stream, where they were requested and there are any."""
    return (answer.leave_one_out and answer.leave_one_out.changes) or {}


def _caption(answer: Classification) -> str:
    streams = [f"{name}: {_describe(stream)}" for name, stream in answer.streams.items()]
    if answer.out_of_domain is not None:
        streams.append(
            f"out-of-distribution score {answer.out_of_domain:.2f} "
            "(nearly all known clips: below 1)"
        )
    if _changes(answer):
        streams.append("Δ: logit of all streams - logit without this one")
    elif answer.leave_one_out is not None:
        streams.append(f"leave_one_out: {answer.leave_one_out.reason}")
    streams += _trace(answer)
    model = f"{answer.model.name} {answer.model.version}, T = {answer.steps}"
    if answer.exit is not None:
        model += f" (margin {answer.exit.margin:.2f}, {_count(answer.exit.steps_run, 'step')} run)"
    return "\n".join([*streams, f"{model}, {answer.timing_ms.total:.0f} ms"])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _trace(answer: Classification) -> list[str]:
    """Return a line for the answer after each time step, where it was requested."""
    firsts = [(step.steps, step.probabilities[0]) for step in answer.steps_trace or []]
    return [f"after step {steps}: {top.label} ({top.probability:.1%})" for steps, top in firsts]


def _describe(stream: Stream) -> str:
    if not stream.used:
        return f"not used ({stream.reason})"
    if stream.sample_rate is not None:
        return f"{stream.duration_s:.2f} s at {stream.sample_rate} Hz"
    if stream.frames is None:
        events = stream.values if stream.events is None else stream.events
        return f"{events} {'values' if stream.events is None else 'events'}"
    return f"{_count(stream.frames, 'picture')} of {stream.width} x {stream.height}"
