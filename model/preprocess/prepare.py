"""Convert the sound, the pictures and the events of a clip to a checkpoint's input tensors.

Training and serving both call these functions, with the specs of the checkpoint's card
(model/preprocess/specs.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from model.media.events.types import CameraEvents, ChannelEvents
from model.preprocess.events import prepare_camera_events, prepare_channel_events
from model.preprocess.frames import prepare_frames
from model.preprocess.prepared import Prepared
from model.preprocess.specs import (
    ChannelEventSpec,
    EventFrameSpec,
    FrameSpec,
    Spec,
    SpectrogramSpec,
)
from model.preprocess.spectrogram import prepare_spectrogram

if TYPE_CHECKING:
    from model.media.types import Pictures, Sound


def prepare(
    specs: Mapping[str, Spec],
    sound: Sound | None,
    pictures: Pictures | None,
    steps: int,
    events: Mapping[str, CameraEvents | ChannelEvents] | None = None,
) -> dict[str, Prepared]:
    """Prepare each stream whose sound, pictures or events are there, for `steps` time steps.

    `events` are by the stream's name, and must fit its spec. Raises TypeError for a stream of
    another kind, for which a clip has no content.
    """
    prepared: dict[str, Prepared] = {}
    events = events or {}
    for name, spec in specs.items():
        if isinstance(spec, SpectrogramSpec):
            if sound is not None:
                prepared[name] = prepare_spectrogram(sound, spec)
        elif isinstance(spec, FrameSpec):
            if pictures is not None:
                prepared[name] = prepare_frames(pictures, spec, steps)
        elif isinstance(spec, EventFrameSpec):
            if isinstance(camera := events.get(name), CameraEvents):
                prepared[name] = prepare_camera_events(camera, spec, steps)
        elif isinstance(spec, ChannelEventSpec):
            if isinstance(cochlea := events.get(name), ChannelEvents):
                prepared[name] = prepare_channel_events(cochlea, spec, steps)
        else:
            raise TypeError(
                f"stream {name!r} is of the kind {spec.kind!r}; a clip has only the content of "
                "'spectrogram' (its sound), 'frames' (its pictures), 'events' and 'audio_events'"
            )
    return prepared
