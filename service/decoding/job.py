"""The input and the output of a decoding process, for one request.

The service imports this module as well, so it imports no decoder.
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
    """How to decode and preprocess the files of one request.

    - `name`: of the checkpoint, for error details; `streams`: its specs.
    - `missing_streams`: whether the checkpoint supports missing streams.
    - `steps`: time steps T.
    - `canvas`: whether to return the pictures that maps are drawn on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    streams: dict[str, Spec]
    missing_streams: bool
    steps: int
    limits: Limits = Limits()
    canvas: bool = True

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each stream's spec."""
        return {name: spec.kind for name, spec in self.streams.items()}

    @classmethod
    def from_card(
        cls, card: Card, steps: int, limits: Limits | None = None, canvas: bool = True
    ) -> DecodeRequest:
        """Return the request for a checkpoint, from its card, which has been validated."""
        return cls.model_construct(
            name=card.name,
            streams=card.streams,
            missing_streams=card.missing_streams,
            steps=steps,
            limits=limits or Limits(),
            canvas=canvas,
        )


@dataclass(frozen=True)
class StreamInfo:
    """The input of one stream, for the answer.

    - `used`; `reason`: why it was not used.
    - Of sound: `duration_s`; `sample_rate` in Hz; number of `channels`, and how several were
      `mixed` to one; the `track` that was used (from 1) if there are several `tracks`.
    - Of pictures: number of `frames` used; `width` and `height` of the first in pixels.
    - Of events: their number `events`; `duration_s`; the sensor's `width` and `height` in pixels,
      where the file has them.
    - Of a series: number of `values`; `duration_s`.
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
    events: int | None = None
    values: int | None = None


@dataclass(frozen=True)
class DecodeResult:
    """The preprocessed input of one request.

    `prepared`: the streams that are used, by name. `streams`: every stream of the checkpoint. Times
    are in seconds.
    """

    prepared: dict[str, Prepared]
    streams: dict[str, StreamInfo]
    decode_s: float
    preprocess_s: float

    def wait_in(self, elapsed_s: float) -> float:
        """Return the seconds of `elapsed_s`, the caller's time for this decoding, in which no
        process worked on it: the wait for a process, and the transfer of files."""
        return max(0.0, elapsed_s - self.decode_s - self.preprocess_s)
