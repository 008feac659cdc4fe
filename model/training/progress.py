"""Progress bars of work that takes minutes, in a terminal: how much is done, and the time left.

In a file or a pipe there is none: each would leave an empty line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich import get_console, progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


def progress_bar(console: Console) -> Progress:
    """Return a bar with a description, a count and the time left; it is gone when it ends."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def track(
    items: Iterable[Item],
    description: str,
    total: float | None = None,
    console: Console | None = None,
) -> Iterable[Item]:
    """Iterate over `items` beside a bar, which is gone when they end.

    `total`: their number, where they have no length.
    """
    console = console or get_console()
    return progress.track(
        items, description, total, console=console, transient=True, disable=not console.is_terminal
    )
