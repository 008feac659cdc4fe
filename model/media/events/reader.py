"""Read files of events: the format is detected by the content."""

from __future__ import annotations

from model.media.events import aedat4, aerdat, evt, nmnist, npz
from model.media.events.types import CameraEvents, ChannelEvents
from model.media.npz import MAGIC
from model.media.types import Limits, UnknownFormat


def read_camera_events(data: bytes, limits: Limits | None = None) -> CameraEvents:
    """Read the events of a camera, in one of `types.CAMERA_FORMATS`. Raises MediaError."""
    limits = limits or Limits()
    if data.startswith(MAGIC):
        return npz.read_camera(data, limits)
    if aerdat.is_aerdat(data):
        return aerdat.read_camera(data, limits)
    if data.startswith(aedat4.MAGIC):
        return aedat4.read_camera(data, limits)
    if data.startswith(evt.MAGIC):
        return evt.read_camera(data, limits)
    return nmnist.read_camera(data, limits)


def read_channel_events(data: bytes, limits: Limits | None = None) -> ChannelEvents:
    """Read the events of a cochlea: .npz with `channel` and `t`. Raises MediaError."""
    if not data.startswith(MAGIC):
        raise UnknownFormat("it is not an .npz file (arrays `channel` and `t`, microseconds)")
    return npz.read_channels(data, limits or Limits())
