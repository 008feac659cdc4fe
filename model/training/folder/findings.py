"""Faults in a folder of clips (findings), and one report of them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: Kinds of findings, in the order of the report.
FindingKind = Literal[
    "wrong name",
    "unknown class",
    "missing file",
    "unreadable",
    "empty",
    "stream missing",
    "silent",
    "one colour",
    "too short",
    "duplicate",
    "class with too few",
]
KINDS: tuple[FindingKind, ...] = FindingKind.__args__  # type: ignore[attr-defined]
#: Findings that leaving the clip out does not mend.
FATAL: frozenset[FindingKind] = frozenset({"class with too few"})
#: Most findings of one kind that a report lists.
MAX_LISTED = 50


@dataclass(frozen=True)
class Finding:
    """One mistake: its kind, the file or class (`where`), and what is wrong and accepted."""

    kind: FindingKind
    where: str
    message: str


def report(data: Path, findings: Iterable[Finding], clips: int) -> str:
    """Return the report on a data folder of `clips` clips: all findings by kind, a line each."""
    findings = list(findings)
    plural = "mistake" if len(findings) == 1 else "mistakes"
    lines = [f"{data}: {len(findings)} {plural} in {clips} clips"]
    for kind in KINDS:
        of_kind = [finding for finding in findings if finding.kind == kind]
        if of_kind:
            lines.append(f"  {kind} ({len(of_kind)})")
            lines += _lines(of_kind)
    return "\n".join(lines)


def _lines(findings: Sequence[Finding]) -> list[str]:
    lines = [f"    {finding.where}: {finding.message}" for finding in findings[:MAX_LISTED]]
    more = len(findings) - MAX_LISTED
    return [*lines, f"    and {more} more"] if more > 0 else lines
