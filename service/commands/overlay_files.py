"""The outcomes of `scmrl classify`, and their overlays as files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from service.classification.schemas import Classification


@dataclass(frozen=True)
class Outcome:
    """The answer for one clip, or the document of the problem with it. `clip`: its first file."""

    clip: Path
    answer: Classification | None = None
    problem: Mapping[str, Any] | None = None


def write_overlays(out: Path, outcomes: Sequence[Outcome], quiet: bool) -> bool:
    """Write the overlays of each clip that has an answer; return whether that succeeded."""
    from service.commands.join_pictures import side_by_side

    used: set[Path] = set()
    for outcome in outcomes:
        if outcome.answer is None:
            continue
        maps = outcome.answer.attention or {}
        pngs = [base64.b64decode(m.overlay_png) for m in maps.values() if m.overlay_png]
        if not pngs:
            typer.echo(f"{outcome.clip}: no maps, which need several streams", err=True)
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
