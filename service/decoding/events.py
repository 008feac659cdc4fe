"""Read and preprocess events: the readers of `events` and `audio_events`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model.media.events import reader
from model.media.events.types import CameraEvents, ChannelEvents
from model.media.types import Unusable
from model.preprocess.events import prepare_camera_events, prepare_channel_events
from model.preprocess.prepared import Prepared
from model.preprocess.specs import ChannelEventSpec, EventFrameSpec, Spec
from service.decoding.job import StreamInfo
from service.decoding.readers import ReadOptions
from service.decoding.sources import Missing, Source


@dataclass(frozen=True)
class CameraSource:
    """Events of a camera, for streams of the kind "events"."""

    events: CameraEvents

    def empty_reason(self) -> str | None:
        return None if len(self.events.x) else "it has no events"

    def prepare(self, spec: Spec, steps: int) -> Prepared:
        assert isinstance(spec, EventFrameSpec)
        _check_any(len(self.events.x))
        return prepare_camera_events(self.events, spec, steps)

    def describe(self, unused_reason: str | None) -> StreamInfo:
        height, width = self.events.sensor or (None, None)
        return StreamInfo(
            used=unused_reason is None,
            reason=unused_reason,
            duration_s=round(self.events.duration_s, 3),
            width=width,
            height=height,
            events=len(self.events.x),
        )


@dataclass(frozen=True)
class ChannelSource:
    """Events of a cochlea, for streams of the kind "audio_events"."""

    events: ChannelEvents

    def empty_reason(self) -> str | None:
        return None if len(self.events.channel) else "it has no events"

    def prepare(self, spec: Spec, steps: int) -> Prepared:
        assert isinstance(spec, ChannelEventSpec)
        _check_any(len(self.events.channel))
        highest = int(self.events.channel.max())
        if highest >= spec.bands:
            raise Unusable(
                f"it has events of channel {highest}; the checkpoint takes 0 to {spec.bands - 1}"
            )
        return prepare_channel_events(self.events, spec, steps)

    def describe(self, unused_reason: str | None) -> StreamInfo:
        return StreamInfo(
            used=unused_reason is None,
            reason=unused_reason,
            duration_s=round(self.events.duration_s, 3),
            events=len(self.events.channel),
        )


def _check_any(count: int) -> None:
    """Raise Unusable without events, which a checkpoint that needs each stream does not ask."""
    if not count:
        raise Unusable("it has no events")


def read_events(files: Sequence[bytes], options: ReadOptions) -> Mapping[str, Source | Missing]:
    """Read the events of a camera."""
    return {"events": CameraSource(reader.read_camera_events(files[0], options.limits))}


def read_audio_events(
    files: Sequence[bytes], options: ReadOptions
) -> Mapping[str, Source | Missing]:
    """Read the events of a cochlea."""
    return {"audio_events": ChannelSource(reader.read_channel_events(files[0], options.limits))}
