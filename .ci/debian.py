"""Minimal Debian roots, made by debootstrap from the mirror that this machine's apt uses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

#: Links in usr/local/bin to Debian's Python, named as in the official images.
_LINKS = (("python", "python3"), ("pip", "pip3"))


def make_root(tree: Path, suite: str, packages: Sequence[str]) -> Path:
    """Make a minimal root of `suite` with `packages` in `tree`, unless it exists; return `tree`."""
    if tree.exists():
        return tree
    partial = tree.with_name(f"{tree.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    tree.parent.mkdir(parents=True, exist_ok=True)
    include = f"--include={','.join(packages)}"
    quiet("debootstrap", "--variant=minbase", include, suite, str(partial), mirror())
    for pattern in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*"):
        for file in partial.glob(pattern):
            file.unlink()
    return partial.rename(tree)


def name_python(tree: Path) -> None:
    """Name Python as the official images do, and let pip install beside apt."""
    for link, target in _LINKS:
        path = tree / "usr/local/bin" / link
        if not path.is_symlink():
            path.symlink_to(f"/usr/bin/{target}")
    for marker in (tree / "usr/lib").glob("python3*/EXTERNALLY-MANAGED"):
        marker.unlink()


def mirror() -> str:
    """Return the address of the Debian archive that this machine's apt uses; it has all suites.

    $DEBIAN_MIRROR overrides it. Raises SystemExit where apt has no Debian archive.
    """
    if address := os.environ.get("DEBIAN_MIRROR"):
        return address
    columns = "$(CREATED_BY) $(ORIGIN) $(COMPONENT) $(LABEL) $(REPO_URI)"
    for line in output("apt-get", "indextargets", "--format", columns).splitlines():
        if line.startswith("Packages Debian main Debian "):
            return line.split()[-1]
    raise SystemExit(
        "this machine's apt has no Debian archive: run apt-get update, or set DEBIAN_MIRROR"
    )


@cache
def pip_needs() -> set[Path]:
    """Return pip's configuration files, and the certificates and package folders they name."""
    pip = (sys.executable, "-m", "pip", "config")
    paths = re.findall(r"^\s*(\S+), exists: True", output(*pip, "debug"), re.MULTILINE)
    for word in re.findall(r"[^\s'\"=]+", output(*pip, "list")):
        if word.startswith("file://"):  # the index's pages point to files beside it
            paths.append(str(Path(word.removeprefix("file://")).parent))
        elif word.startswith("/"):
            paths.append(word)
    return {Path(path) for path in paths if Path(path).exists()}


def quiet(*command: str) -> None:
    """Run a command; exit with its output where it fails."""
    completed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if completed.returncode:
        printed = completed.stdout[-8000:]
        sys.exit(f"{' '.join(command)}\n{printed}\nexit code {completed.returncode}")


def output(*command: str) -> str:
    """Return what a command prints; exit where it fails."""
    completed = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if completed.returncode:
        printed = completed.stdout
        sys.exit(f"{' '.join(command)}\n{printed}\nexit code {completed.returncode}")
    return completed.stdout.strip()
