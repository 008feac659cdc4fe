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
#: Largest error of an energy in float32, as a share of its terms, beside that of longer blocks.
_ROUGH = 1e-3
_FLOAT32 = np.finfo(np.float32)


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
    for channel in samples[1:]:
        average += channel
    average /= len(samples)
    if _is_surely_kept(samples, block):
        return average, "average"
    # One at a time in float64, as there may be many.
    energies = np.stack([_block_energies(each.astype(np.float64), block) for each in samples])
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


def _is_surely_kept(samples: Float32Array, block: int) -> bool:
    """Return whether energies in float32, which take a quarter of the time, are enough to say that
    the average is used: also where each is wrong by as much as it can be."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is not sure
        of_channels = [_rough_energies(channel, block) for channel in samples]
        energies, scales = (sum(values) for values in zip(*of_channels, strict=True))
        of_sum, _ = _rough_energies(samples.sum(axis=0), block)
        error = (_ROUGH + block * _FLOAT32.eps) * scales + block * _FLOAT32.tiny
        mean_energies = energies / len(samples)
        kept = of_sum / len(samples) - error >= _CANCELLED_SHARE * (mean_energies + error)
        lost = (mean_energies + error)[~kept].sum()
        return bool(lost <= _MAX_LOST_SHARE * (mean_energies - error).sum())


def _rough_energies(channel: Float32Array, block: int) -> tuple[Float64Array, Float64Array]:
    """Return what `_block_energies` does, by dot products in float32, and the size of the terms
    whose rounding is its error."""
    whole = len(channel) // block * block
    ones = np.ones(block, np.float32)
    squares, sums = [], []
    for blocks in (channel[:whole].reshape(-1, block), channel[None, whole:]):
        squares.append(np.vecdot(blocks, blocks))
        sums.append(np.vecdot(blocks, ones[: blocks.shape[1]]))
    square, total = (np.concatenate(parts).astype(np.float64) for parts in (squares, sums))
    lengths = np.full(len(square), block)
    lengths[-1] = len(channel) - whole
    mean = total.sum() / len(channel)
    offset = lengths * mean**2
    return square - 2 * mean * total + offset, square + offset
