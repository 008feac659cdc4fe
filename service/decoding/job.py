"""What is wanted of one request's files, and what a decoding process makes of them.

What the service itself imports, so nothing here reads a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from model.media.audio.downmix import DownmixMethod
from model.media.types import Limits
from model.preprocess.prepared import Prepared
from model.preprocess.specs import Spec

if TYPE_CHECKING:
    from model.checkpoint import Card


class DecodeRequest(BaseModel):
    """What to make of the files: the streams of the checkpoint `name`, for `steps` time steps.

    `missing_streams`: whether it can do without some of them. `canvas`: whether the pictures
    that maps are drawn on are wanted as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    streams: dict[str, Spec]
    missing_streams: bool
    steps: int
    limits: Limits = Limits()
    canvas: bool = True

    @classmethod
    def from_card(
        cls, card: Card, steps: int, limits: Limits | None = None, canvas: bool = True
    ) -> DecodeRequest:
        """What a checkpoint's card asks for."""
        return cls(
            name=card.name,
            streams=card.streams,
            missing_streams=card.missing_streams,
            steps=steps,
            limits=limits or Limits(),
            canvas=canvas,
        )


@dataclass(frozen=True)
class StreamInfo:
    """What was found for one stream; what is not used has the reason.

    Sound: `duration_s`, `sample_rate` in Hz, number of `channels` and, where there are several,
    how they were `mixed` to one; of a file with several sound tracks, the number of the `track`
    (the first is 1) and of all `tracks`. Pictures: number of `frames` used, and the first one's
    `width` and `height` in pixels.
    """

    used: bool
    reason: str | None = None
    duration_s: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    mixed: DownmixMethod | None = None
    track: int | None = None
    tracks: int | None = None
    frames: int | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class DecodeResult:
    """A request ready for the encoding.

    `prepared` by stream, for the streams that are there; `streams` tells of every stream of the
    checkpoint. Times in seconds.
    """

    prepared: dict[str, Prepared]
    streams: dict[str, StreamInfo]
    decode_s: float
    preprocess_s: float
