"""The channels of a sound to one, by their average where that keeps what they hold."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.media.types import Sound

#: How channels become one.
Mixed = Literal["average", "strongest channel"]

_BLOCKS_PER_S = 20
#: Channels that have nothing in common average to their mean energy divided by their number. A
#: block is cancelled where less than this share of that is left: for two channels as loud as each
#: other, where their correlation is under -0.5.
_CANCELLED_SHARE = 0.5
#: Share of all energy that may lie in cancelled blocks before the average is given up.
_MAX_LOST_SHARE = 0.25


def mixed(sound: Sound) -> tuple[NDArray[np.float64], Mixed]:
    """One channel [n] of the sound's, and how it was made.

    It is the average, except where channels cancel each other (one of them is inverted, as by a
    balanced line that is read as stereo): there it is the channel with the most energy.
    """
    samples = sound.samples
    if len(samples) == 1:
        return samples[0].astype(np.float64), "average"
    average = samples.mean(axis=0, dtype=np.float64)
    block = max(1, sound.sample_rate // _BLOCKS_PER_S)
    energies = np.stack([_energies(channel, block) for channel in samples])
    mean_energies = energies.mean(axis=0)
    cancelled = _energies(average, block) * len(samples) < _CANCELLED_SHARE * mean_energies
    if mean_energies[cancelled].sum() <= _MAX_LOST_SHARE * mean_energies.sum():
        return average, "average"
    strongest = int(energies.sum(axis=1).argmax())
    return samples[strongest].astype(np.float64), "strongest channel"


def mono(sound: Sound) -> tuple[Sound, Mixed]:
    """The sound with its channels mixed to one, and how."""
    samples, how = mixed(sound)
    return Sound(samples.astype(np.float32)[None], sound.sample_rate), how


def _energies(
    channel: NDArray[np.float32] | NDArray[np.float64], block: int
) -> NDArray[np.float64]:
    """Energy of each `block` of samples, without the channel's constant part."""
    values = channel.astype(np.float64)
    values -= values.mean()
    return np.asarray(np.add.reduceat(values * values, np.arange(0, len(values), block)))
