"""The live view of a terminal, and lines of JSON."""

from __future__ import annotations

from typing import Self

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from service.client import Answer
from service.commands.answer_table import fitted
from service.commands.watch.session import Shown

#: Characters that bars are drawn with: eighths of a block.
_EIGHTHS = " ▏▎▍▌▋▊▉"


class Lines:
    """One JSON object per message."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, shown: Shown) -> None:
        typer.echo(shown.message.model_dump_json(exclude_none=True))


class Screen:
    """A table that each answer replaces; where the output is no terminal, only the last one."""

    def __init__(self, source: str, top_k: int, is_terminal: bool) -> None:
        self._source = source
        self._top_k = top_k
        self._live = Live(
            Text(f"{source}: waiting for the first answer"),
            console=Console(force_terminal=is_terminal or None),
            auto_refresh=False,
            transient=False,
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if not self._live.console.is_terminal:
            typer.echo()  # Live ends the last line in a terminal only

    def show(self, shown: Shown) -> None:
        view = render(shown, self._source, self._top_k, self._live.console)
        self._live.update(view, refresh=True)


def render(shown: Shown, source: str, top_k: int, console: Console) -> RenderableType:
    """Return the view of one message, as wide as the console."""
    message = shown.message
    if not isinstance(message, Answer):
        return Text(f"{source}: {message.detail}", style="red")
    table = fitted(console, lambda width: _table(message, source, top_k, width))
    return Group(table, Text(_status(message, shown.unsent), style="dim"))


def _table(message: Answer, source: str, top_k: int, bar_width: int) -> Table:
    result = message.result
    label = result.prediction.label
    title = "no label" if label is None else escape(label)
    table = Table(
        title=f"{escape(source)}: [bold]{title}[/bold] ({result.prediction.probability:.1%})",
        title_justify="left",
    )
    table.add_column("label")
    for heading in ("now", "smoothed"):
        table.add_column(heading, justify="right")
        if bar_width:
            table.add_column("", min_width=bar_width)
    now = {entry.label: entry.probability for entry in result.probabilities}
    ranked = sorted(message.smoothed.items(), key=lambda item: -item[1])
    for name, smoothed in ranked[:top_k]:
        probability = now.get(name, 0.0)
        cells = [escape(name)]
        for value in (probability, smoothed):
            cells += [f"{value:.1%}", *([bar(value, bar_width)] if bar_width else [])]
        table.add_row(*cells)
    return table


def _status(answer: Answer, unsent: int) -> str:
    window_s = (answer.window.end_ns - answer.window.begin_ns) / 1e9
    dropped = ", ".join(f"{field} {count}" for field, count in answer.dropped.items())
    parts = [
        f"{answer.result.model.name} {answer.result.model.version}",
        f"answer {answer.number}",
        f"window {window_s:g} s",
        f"behind {answer.behind_ms:.0f} ms",
        f"dropped: {dropped}",
        f"skipped: {answer.skipped}",
        f"not sent: {unsent}",
    ]
    return " · ".join([*parts, "final"] if answer.final else parts)


def bar(share: float, width: int) -> str:
    """Return a bar for 0 to 1, of `width` characters for 1, to an eighth of a character."""
    whole, eighths = divmod(round(max(0.0, min(share, 1.0)) * width * 8), 8)
    return "█" * whole + _EIGHTHS[eighths].strip()
