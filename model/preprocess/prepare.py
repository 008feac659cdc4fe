"""Convert the sound and the pictures of a clip to a checkpoint's input tensors.

Training and serving both call these functions, with the specs of the checkpoint's card
(model/preprocess/specs.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from model.preprocess.frames import prepare_frames
from model.preprocess.prepared import Prepared
from model.preprocess.specs import FrameSpec, Spec, SpectrogramSpec
from model.preprocess.spectrogram import prepare_spectrogram

if TYPE_CHECKING:
    from model.media.types import Pictures, Sound


def prepare(
    specs: Mapping[str, Spec], sound: Sound | None, pictures: Pictures | None, steps: int
) -> dict[str, Prepared]:
    """Prepare each stream whose sound or pictures are not None, for `steps` time steps.

    Raises TypeError for a stream of another kind, for which a clip has no content.
    """
    prepared: dict[str, Prepared] = {}
    for name, spec in specs.items():
        if isinstance(spec, SpectrogramSpec):
            if sound is not None:
                prepared[name] = prepare_spectrogram(sound, spec)
        elif isinstance(spec, FrameSpec):
            if pictures is not None:
                prepared[name] = prepare_frames(pictures, spec, steps)
        else:
            raise TypeError(
                f"stream {name!r} is of the kind {spec.kind!r}; a clip has only the content of "
                "'spectrogram' (its sound) and 'frames' (its pictures)"
            )
    return prepared
