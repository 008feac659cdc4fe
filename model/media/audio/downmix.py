"""Downmix a sound's channels to mono."""

from __future__ import annotations

from typing import Literal

import numpy as np

from model.arrays import Float32Array, Float64Array
from model.media.types import Sound

#: How the channels were combined.
DownmixMethod = Literal["average", "strongest channel"]

_BLOCKS_PER_S = 20
#: A block is cancelled if its average keeps less than this share of the energy that uncorrelated
#: channels would keep (mean energy / number of channels). For two channels of equal energy, this
#: is a correlation below -0.5.
_CANCELLED_SHARE = 0.5
#: Largest share of the energy in cancelled blocks for which the average is used.
_MAX_LOST_SHARE = 0.25


def downmix(sound: Sound) -> tuple[Float32Array | Float64Array, DownmixMethod]:
    """Return one channel [n], and how it was computed. A single channel is returned as it is.

    The result is the average of the channels. Where channels cancel each other (one of them is
    inverted, as when a balanced line is recorded as stereo), it is the channel with the most
    energy.
    """
    samples = sound.samples
    if len(samples) == 1:
        return samples[0], "average"
    block = max(1, sound.sample_rate // _BLOCKS_PER_S)
    average = samples[0].astype(np.float64)
    by_channel = [_block_energies(average, block)]
    for channel in samples[1:]:  # one at a time in float64, as there may be many
        values = channel.astype(np.float64)
        by_channel.append(_block_energies(values, block))
        average += values
    average /= len(samples)
    energies = np.stack(by_channel)
    mean_energies = energies.mean(axis=0)
    average_energies = _block_energies(average, block)
    cancelled = average_energies * len(samples) < _CANCELLED_SHARE * mean_energies
    if mean_energies[cancelled].sum() <= _MAX_LOST_SHARE * mean_energies.sum():
        return average, "average"
    strongest = int(energies.sum(axis=1).argmax())
    return samples[strongest].astype(np.float64), "strongest channel"


def to_mono(sound: Sound) -> tuple[Sound, DownmixMethod]:
    """Return the sound with one channel, and how it was computed."""
    samples, method = downmix(sound)
    return Sound(samples.astype(np.float32, copy=False)[None], sound.sample_rate), method


def _block_energies(channel: Float64Array, block: int) -> Float64Array:
    """Return the energy of each `block` of samples, without the channel's DC offset."""
    values = channel - channel.mean()
    values *= values
    return np.asarray(np.add.reduceat(values, np.arange(0, len(values), block)))
