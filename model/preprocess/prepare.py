"""Arrays to the tensors that a checkpoint was trained on.

A sound becomes a log-magnitude spectrogram and pictures become normalised frames, each as a
spec (model/preprocess/specs.py, part of a checkpoint's card) says. Training and serving both call
these functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from model.preprocess.frames import prepare_frames
from model.preprocess.prepared import Prepared
from model.preprocess.specs import Spec
from model.preprocess.spectrogram import prepare_spectrogram

if TYPE_CHECKING:
    from model.media.types import Pictures, Sound


def prepare(
    specs: Mapping[str, Spec], sound: Sound | None, pictures: Pictures | None, steps: int
) -> dict[str, Prepared]:
    """Each stream that is there, as its spec says, for `steps` time steps."""
    prepared: dict[str, Prepared] = {}
    for name, spec in specs.items():
        if spec.kind == "spectrogram" and sound is not None:
            prepared[name] = prepare_spectrogram(sound, spec)
        if spec.kind == "frames" and pictures is not None:
            prepared[name] = prepare_frames(pictures, spec, steps)
    return prepared
