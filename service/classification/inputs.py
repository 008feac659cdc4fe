"""The files of one request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputFiles:
    """The files of one request, as they came. Either `clip` alone or any of the others."""

    clip: bytes | None = None
    video: bytes | None = None
    audio: bytes | None = None
    frames: tuple[bytes, ...] = ()
