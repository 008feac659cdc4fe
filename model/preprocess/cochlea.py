"""A simulated cochlea: a sound to events of frequency channels."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.fft import ifft, next_fast_len, rfft
from scipy.ndimage import gaussian_filter1d

from model.arrays import Float32Array
from model.media.audio.downmix import downmix
from model.media.audio.resample import resample_soxr
from model.media.events.types import ChannelEvents

if TYPE_CHECKING:
    from model.media.types import Sound

#: Number of channels, from the lowest frequency on.
BANDS = 32
#: Sample rate that sounds are brought to, and that of the envelopes, in Hz.
RATE, ENVELOPE_RATE = 8000, 1000
#: Centre frequencies of the lowest and the highest channel, in Hz.
LOWEST_HZ, HIGHEST_HZ = 100.0, 3600.0
#: A channel is silent this many dB below the sound's loudest moment.
RANGE_DB = 28.0
#: A channel is silent up to this many dB above its background, a percentile of its level.
MARGIN_DB, BACKGROUND_PERCENTILE = 9.0, 15.0
#: Events a second of a channel at the sound's loudest moment.
MAX_EVENTS_HZ = 250.0
#: Standard deviation of the smoothing of an envelope, in seconds.
SMOOTHING_S = 0.008


def sound_to_events(sound: Sound) -> ChannelEvents:
    """Return the events of a sound, of `BANDS` channels; none of silence.

    1. Mix down to mono, and resample to `RATE`.
    2. Filter by gammatone filters of the fourth order, with centres evenly spaced on the scale of
       equivalent rectangular bandwidths (Glasberg and Moore, 1990).
    3. Rectify (the envelope), smooth, and compress (dB).
    4. The drive of a channel is the share of `RANGE_DB` by which its level is above its
       threshold (`RANGE_DB`, `MARGIN_DB`).
    5. An integrate-and-fire neuron of each channel fires each time that the integral of its drive
       has grown by one; at most `MAX_EVENTS_HZ` times a second.
    """
    mono = downmix(sound)[0].astype(np.float32)
    return samples_to_events(resample_soxr(mono, sound.sample_rate, RATE))


def samples_to_events(samples: Float32Array) -> ChannelEvents:
    """Return the events of mono samples [n] at `RATE` Hz: steps 2 to 5 of `sound_to_events`."""
    levels = _levels(samples)
    loudest = levels.max(initial=-np.inf)
    if not np.isfinite(loudest) or not np.abs(samples).max(initial=0):
        return ChannelEvents(np.empty(0, np.int64), np.empty(0, np.int64))
    background = np.percentile(levels, BACKGROUND_PERCENTILE, axis=1, keepdims=True)
    threshold = np.maximum(loudest - RANGE_DB, background + MARGIN_DB)
    drive = np.maximum(levels - threshold, 0) / RANGE_DB
    charge = np.floor(np.cumsum(drive, axis=1, dtype=np.float64) * (MAX_EVENTS_HZ / ENVELOPE_RATE))
    fired = np.diff(charge, axis=1, prepend=0) > 0
    time, channel = np.nonzero(fired.T)  # in order of time
    return ChannelEvents(channel.astype(np.int64), time.astype(np.int64) * (10**6 // ENVELOPE_RATE))


def _levels(samples: Float32Array) -> Float32Array:
    """Return the level of each channel in dB, [BANDS, n at ENVELOPE_RATE].

    Each band of the spectrum is shifted to 0 Hz, so that its inverse transform is short.
    """
    ratio = RATE // ENVELOPE_RATE
    count = -(-len(samples) // ratio)
    width = next_fast_len(count + ENVELOPE_RATE // 20)
    size = width * ratio
    spectrum = np.pad(rfft(np.asarray(samples, np.float32), size), (width // 2, width // 2))
    offsets = (np.arange(width) - width // 2) * (RATE / size)
    bands = np.empty((BANDS, width), np.complex64)
    for band, (centre, bandwidth) in enumerate(zip(*_filters(), strict=True)):
        first = round(centre * size / RATE)  # of the padded spectrum
        shifted = (offsets + first * RATE / size - centre) / bandwidth
        # The modulus of the fourth-order gammatone filter: without phase, no channel is late.
        bands[band] = spectrum[first : first + width] / (1 + shifted * shifted) ** 2
    envelope = np.abs(ifft(bands, axis=1)[:, :count])
    smooth = gaussian_filter1d(envelope, SMOOTHING_S * ENVELOPE_RATE, axis=1, truncate=3)
    return np.asarray(20 * np.log10(smooth + 1e-12), np.float32)


@lru_cache(maxsize=1)
def _filters() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centre frequencies and bandwidths of the gammatone filters in Hz."""
    lowest, highest = 21.4 * np.log10(1 + 0.00437 * np.array([LOWEST_HZ, HIGHEST_HZ]))
    centres = (10 ** (np.linspace(lowest, highest, BANDS) / 21.4) - 1) / 0.00437
    return centres, 1.019 * 24.7 * (0.00437 * centres + 1)
