"""Ask an index of advisories about every version of requirements.lock.

    python .ci/audit.py [OPTIONS OF pip-audit]

pip-audit asks the index; `-s osv` or `-s esms` names another one. By itself it prints "No known
vulnerabilities found" and exits 0 also where it skipped every package, so its report is read here.

Exit code 0: the index was asked about every version and knows no vulnerability.
Exit code 1: at least one version is vulnerable; each is printed with the versions that are not.
Exit code 3: none is known to be vulnerable, and at least one could not be asked about; the reason
is printed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
CLEAN, VULNERABLE, NOT_ASKED = 0, 1, 3
#: Seconds that pip-audit may take.
TIMEOUT_S = 900


class Vulnerability(BaseModel):
    """An advisory in pip-audit's report."""

    id: str
    fix_versions: list[str]
    aliases: list[str] = []


class Dependency(BaseModel):
    """A package in pip-audit's report: with its advisories, or why it was skipped."""

    name: str
    version: str | None = None
    vulns: list[Vulnerability] | None = None
    skip_reason: str | None = None


class Document(BaseModel):
    """pip-audit's report."""

    dependencies: list[Dependency]


@dataclass(frozen=True)
class Pin:
    """A package at one version."""

    name: str
    version: str


@dataclass(frozen=True)
class Advisory:
    """A known vulnerability of a pin.

    Attributes:
        names: Its identifier, and others for the same vulnerability.
        fixed: Versions that do not have it; empty while there is none.
    """

    pin: Pin
    names: tuple[str, ...]
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        fixed = f"fixed in {', '.join(self.fixed)}" if self.fixed else "not fixed in any version"
        return f"{self.pin.name} {self.pin.version}: {', '.join(self.names)}; {fixed}"


@dataclass(frozen=True)
class Report:
    """The index's answers.

    Attributes:
        asked: Pins that the index was asked about.
        advisories: Known vulnerabilities of those pins.
        reasons: Each of the other pins, with the reason why the index was not asked about it.
    """

    asked: tuple[Pin, ...]
    advisories: tuple[Advisory, ...]
    reasons: dict[Pin, str]

    @property
    def code(self) -> int:
        """The exit code: CLEAN, VULNERABLE or NOT_ASKED."""
        if self.advisories:
            return VULNERABLE
        return NOT_ASKED if self.reasons or not self.asked else CLEAN

    def __str__(self) -> str:
        total = len(self.asked) + len(self.reasons)
        lines = []
        if self.asked:
            known = f"{len(self.advisories)} known vulnerabilities"
            lines.append(f"audit: {known} in {len(self.asked)} of {total} versions")
        lines += [f"- {advisory}" for advisory in self.advisories]
        if self.reasons or not self.asked:
            count = len(self.reasons)
            lines.append(f"audit: could not be asked about {count} of {total} versions:")
            names: dict[str, list[str]] = {}
            for pin, reason in self.reasons.items():
                # pip-audit's reason ends with the package: one line for all that share the rest.
                general = reason.removesuffix(f": {pin.name} ({pin.version})")
                names.setdefault(general, []).append(pin.name)
            for reason, packages in names.items():
                shown = ", ".join(packages[:3]) + (", ..." if len(packages) > 3 else "")
                lines.append(f"- {len(packages)} ({shown}): {reason}")
        return "\n".join(lines)


def main(options: Sequence[str]) -> int:
    """Print the report on requirements.lock and return its exit code."""
    reports = [ask(pins, options) for pins in split(read_pins(LOCK.read_text()))]
    report = merge(reports)
    print(report)
    return report.code


def read_pins(text: str) -> list[Pin]:
    """Return all pins of a lock, for every Python and machine."""
    matches = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE)
    return [Pin(name, version) for name, version in matches]


def split(pins: Iterable[Pin]) -> list[list[Pin]]:
    """Split pins into groups that have each package once, as pip-audit requires of its input."""
    groups: list[list[Pin]] = []
    for pin in pins:
        for group in groups:
            if pin.name not in {member.name for member in group}:
                group.append(pin)
                break
        else:
            groups.append([pin])
    return groups


def ask(pins: Sequence[Pin], options: Sequence[str]) -> Report:
    """Run pip-audit on pins, which have each package once; `options` are passed on to it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("".join(f"{pin.name}=={pin.version}\n" for pin in pins))
        command = [
            sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off",
            "--no-deps", "--disable-pip", "--requirement", str(file), *options,
        ]  # fmt: skip
        try:
            completed = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return read_report("", f"no answer within {TIMEOUT_S} s", pins)
    return read_report(completed.stdout, completed.stderr, pins)


def read_report(printed: str, errors: str, pins: Sequence[Pin]) -> Report:
    """Read what pip-audit printed about pins.

    Args:
        printed: Its standard output: a JSON document, or anything else where it failed.
        errors: Its standard error, which has the reason of a failure.
        pins: Its input. Those that its document lacks count as not asked about.
    """
    try:
        dependencies = Document.model_validate_json(printed).dependencies
        missing = "pip-audit's report does not have it"
    except ValidationError:
        dependencies = []
        missing = reason_of(errors)
    entries = {dependency.name: dependency for dependency in dependencies}
    asked, advisories, reasons = [], [], {}
    for pin in pins:
        entry = entries.get(pin.name)
        if entry is None or entry.version != pin.version or entry.vulns is None:
            reasons[pin] = (entry.skip_reason if entry else None) or missing
            continue
        asked.append(pin)
        for vulnerability in entry.vulns:
            names = (vulnerability.id, *vulnerability.aliases)
            advisories.append(Advisory(pin, names, tuple(vulnerability.fix_versions)))
    return Report(tuple(asked), tuple(advisories), reasons)


def reason_of(errors: str) -> str:
    """Return the line of pip-audit's standard error that says why it failed."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    stated = [line for line in lines if line.startswith("ERROR:")]
    return (stated or lines[-1:] or ["pip-audit printed no report"])[0]


def merge(reports: Sequence[Report]) -> Report:
    """Return one report with the pins, advisories and reasons of all."""
    return Report(
        tuple(pin for report in reports for pin in report.asked),
        tuple(advisory for report in reports for advisory in report.advisories),
        {pin: reason for report in reports for pin, reason in report.reasons.items()},
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
