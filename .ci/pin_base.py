"""Pin the image's base to the digest that its tag has in its registry.

    python3 .ci/pin_base.py [DOCKERFILE]

Writes `ARG BASE=name:tag@sha256:...` into docker/Dockerfile. The registry is the one that skopeo or
docker's buildx resolves the name to; the first of the two that gets an answer is used. The digest
is that of the tag's index, so it holds for every machine that the base is made for.

Exit code 1 where the Dockerfile has no base of that form, 3 where no registry answered; the reason
of each tool is printed and nothing is written.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DOCKERFILE = Path(__file__).resolve().parents[1] / "docker" / "Dockerfile"
NO_BASE, NO_ANSWER = 1, 3
#: Seconds that a tool may take to answer.
TIMEOUT_S = 60

_BASE = re.compile(r"^ARG BASE=(?P<name>[^@\s]+:[^@\s]+?)(?:@(?P<digest>\S+))?$", re.MULTILINE)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class NoAnswerError(Exception):
    """No registry answered with a digest; the message has the reason of each tool."""


@dataclass(frozen=True)
class Base:
    """The image that a Dockerfile starts from.

    Attributes:
        name: With its tag.
        digest: `sha256:` and 64 hexadecimal digits; None where the tag is not pinned.
    """

    name: str
    digest: str | None


def main(dockerfile: Path) -> int:
    """Pin a Dockerfile's base, print its digest and return the exit code."""
    text = dockerfile.read_text()
    base = read_base(text)
    if base is None:
        print(
            f"{dockerfile}: expected one line `ARG BASE=name:tag` or `ARG BASE=name:tag@sha256:...`"
        )
        return NO_BASE
    try:
        digest = ask_registry(base.name)
    except NoAnswerError as error:
        print(f"the digest of {base.name} is not known, nothing is written:\n{error}")
        return NO_ANSWER
    dockerfile.write_text(pin(text, digest))
    before = "its tag alone" if base.digest is None else base.digest
    print(f"{base.name}: {digest}" + ("" if base.digest == digest else f" (before: {before})"))
    return 0


def read_base(text: str) -> Base | None:
    """Return the base of a Dockerfile; None where there is not exactly one."""
    matches = list(_BASE.finditer(text))
    return Base(matches[0]["name"], matches[0]["digest"]) if len(matches) == 1 else None


def pin(text: str, digest: str) -> str:
    """Return the text of a Dockerfile with the base's digest replaced or added."""
    return _BASE.sub(lambda match: f"ARG BASE={match['name']}@{digest}", text)


def ask_registry(name: str) -> str:
    """Return the digest of an image's index.

    Raises:
        NoAnswerError: Neither tool is installed, or neither got an answer.
    """
    problems = []
    for ask in (ask_skopeo, ask_buildx):
        try:
            return ask(name)
        except NoAnswerError as error:
            problems.append(f"- {error}")
    raise NoAnswerError("\n".join(problems))


def ask_skopeo(name: str) -> str:
    """Return the digest as skopeo gets it. Raises NoAnswerError."""
    # Hashed here: skopeo prints a digest only of an image for this machine.
    manifest = output("skopeo", "inspect", "--raw", f"docker://{name}")
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def ask_buildx(name: str) -> str:
    """Return the digest as docker's buildx gets it. Raises NoAnswerError."""
    form = "{{println .Manifest.Digest}}"
    printed = output("docker", "buildx", "imagetools", "inspect", "--format", form, name)
    digest = printed.decode(errors="replace").strip()
    if not _DIGEST.fullmatch(digest):
        raise NoAnswerError(f"docker buildx: {digest[:200]!r} is not a digest")
    return digest


def output(*command: str) -> bytes:
    """Return what a command prints.

    Raises:
        NoAnswerError: The command is not installed, failed, printed nothing or took too long.
    """
    if shutil.which(command[0]) is None:
        raise NoAnswerError(f"{command[0]}: not installed")
    try:
        completed = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"{command[0]}: no answer within {TIMEOUT_S} s") from error
    if completed.returncode or not completed.stdout:
        lines = completed.stderr.decode(errors="replace").strip().splitlines()
        raise NoAnswerError(f"{command[0]}: {lines[0] if lines else 'no output'}")
    return completed.stdout


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) == 2 else DOCKERFILE))
