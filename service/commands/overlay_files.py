"""The outcomes of `scmrl classify`, and their overlays as files."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
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


def check_names(named: Mapping[str, Path | None]) -> None:
    """Raise BadParameter where a file is no PNG, or of two flags. `named`: the files by flag."""
    flags: dict[Path, str] = {}
    for flag, out in named.items():
        if out is None:
            continue
        if out.suffix.lower() != ".png":
            raise typer.BadParameter(f"{out}: must end in .png", param_hint=flag)
        other = flags.setdefault(out.resolve(), flag)
        if other != flag:
            message = f"{out}: is that of {other} as well; name another file"
            raise typer.BadParameter(message, param_hint=flag)


def write_attention(out: Path, outcomes: Sequence[Outcome], quiet: bool) -> bool:
    """Write the attention maps of each clip that has an answer; return whether that succeeded."""

    def overlays(answer: Classification) -> list[str | None]:
        return [maps.overlay_png for maps in (answer.attention or {}).values()]

    missing = "no attention maps, which need several streams; --class-activation needs one"
    return _write(out, outcomes, overlays, missing, quiet)


def write_class_activation(out: Path, outcomes: Sequence[Outcome], quiet: bool) -> bool:
    """Write the class activation maps, as `write_attention` does."""

    def overlays(answer: Classification) -> list[str | None]:
        activation = answer.class_activation
        return [maps.overlay_png for maps in activation.maps.values()] if activation else []

    return _write(out, outcomes, overlays, "its fusion has no class activation maps", quiet)


def _write(
    out: Path,
    outcomes: Sequence[Outcome],
    overlays: Callable[[Classification], list[str | None]],
    missing: str,
    quiet: bool,
) -> bool:
    """`overlays`: the PNGs of an answer, base64; `missing`: what is said where there are none."""
    from service.commands.join_pictures import side_by_side

    used: set[Path] = set()
    for outcome in outcomes:
        if outcome.answer is None:
            continue
        pngs = [base64.b64decode(png) for png in overlays(outcome.answer) if png]
        if not pngs:
            typer.echo(f"{outcome.clip}: {missing}", err=True)
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
