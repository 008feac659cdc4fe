"""Clips to evaluate on: those of avdigits, with the force on the pen as a CSV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from model.media.series import pack_series, read_series
from model.media.types import Clip
from model.training.avdigits.clips import clip_of
from model.training.avdigits.folder import Digits
from model.training.avdigits_tactile.dataset import measured
from model.training.avdigits_tactile.pen import pen_force
from model.training.task import LabelledClip


@dataclass(frozen=True)
class WrittenClip(LabelledClip):
    """A clip whose `data` is an mp4 file; `force` is a CSV for the upload field `tactile`."""

    force: bytes = b""

    def decode(self, steps: int) -> Clip:
        """Decode the file, and read the CSV. Raises MediaError."""
        return replace(super().decode(steps), series={"tactile": read_series(self.force)})


def labelled_clips(digits: Digits, count: int, seed: int) -> Iterator[LabelledClip]:
    """Yield `count` clips, all digits equally often; clip i depends only on the seed and i."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        label = index % 10
        pictures = digits.pictures[label]
        picture = pictures[rng.integers(len(pictures))]
        clip = clip_of(picture, digits, label, rng)
        own = {each.name: getattr(clip, each.name) for each in fields(clip)}
        yield WrittenClip(**own, force=pack_series(measured(pen_force(picture), rng), "force"))
