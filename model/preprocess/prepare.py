"""Convert the content of a clip to a checkpoint's input tensors.

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
from model.preprocess.series import prepare_series
from model.preprocess.specs import (
    ChannelEventSpec,
    EventFrameSpec,
    FrameSpec,
    SeriesSpec,
    Spec,
    SpectrogramSpec,
)
from model.preprocess.spectrogram import prepare_spectrogram

if TYPE_CHECKING:
    from model.media.series import Series
    from model.media.types import Pictures, Sound


def prepare(
    specs: Mapping[str, Spec],
    sound: Sound | None,
    pictures: Pictures | None,
    steps: int,
    events: Mapping[str, CameraEvents | ChannelEvents] | None = None,
    series: Mapping[str, Series] | None = None,
) -> dict[str, Prepared]:
    """Prepare each stream whose content is there, for `steps` time steps.

    `events` and `series` are by the stream's name; events must fit its spec. Raises TypeError for
    a stream of another kind, for which a clip has no content.
    """
    prepared: dict[str, Prepared] = {}
    events, series = events or {}, series or {}
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
        elif isinstance(spec, SeriesSpec):
            if name in series:
                prepared[name] = prepare_series(series[name], spec)
        else:
            raise TypeError(
                f"stream {name!r} is of the kind {spec.kind!r}; a clip has only the content of "
                "'spectrogram' (its sound), 'frames' (its pictures), 'events', 'audio_events' and "
                "'series'"
            )
    return prepared
