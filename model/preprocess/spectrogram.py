"""A sound to a log-magnitude spectrogram."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from model.media.audio.downmix import mixed
from model.preprocess.mel import band_edges, mel_weights
from model.preprocess.prepared import Bytes, Floats, Prepared
from model.preprocess.resampling import bilinear, sinc_resampled, soxr_resampled
from model.preprocess.specs import SpectrogramSpec

if TYPE_CHECKING:
    from model.media.types import Sound

#: What is louder (full scale is 1) is clipped whatever follows, and could overflow a float32 sum.
_LOUDEST = 1e6
#: Columns over which power is averaged before its percentile is taken as the noise floor, and
#: how far (ln magnitude) a cell must rise above that floor to count as speech.
_FLOOR_COLUMNS = 5
_SPEECH_MARGIN = 0.7


def prepare_spectrogram(sound: Sound, spec: SpectrogramSpec) -> Prepared:
    """The sound's log-magnitude spectrogram, [1, 1, H, W], as `spec` says.

    `column_edges` are seconds in the sound. Raises nothing for a finite sound of one sample or
    more.
    """
    samples = _mono(sound, spec)
    power = _power(samples, spec)
    values = _log_magnitude(power, spec)
    first = 0
    if spec.floor_percentile is not None:
        floor = _noise_floor(power, values, spec)
        above = values - floor[:, None]
        values = values - spec.floor_share * floor[:, None]
        if spec.window_columns is not None:
            first = _speech_start(above, spec.window_columns)
            padding = _quiet(values, spec)
            values = _cut(values, first, spec.window_columns, padding)
    if spec.clip is not None:
        values = np.clip(values, *spec.clip)
    rows, columns = values.shape
    row_edges = band_edges(spec)
    column_edges = (first + np.arange(columns + 1) - 0.5) * spec.hop / spec.sample_rate
    height, width = spec.size
    if spec.resize == "antialias":
        resized = bilinear(rows, height) @ values @ bilinear(columns, width).T
        values = np.asarray(resized, np.float32)
        row_edges = _stretched(row_edges, height)
        column_edges = _stretched(column_edges, width)
    tensor = ((values - spec.mean) / spec.std).astype(np.float32, copy=False)
    return Prepared(
        tensor[None, None], "frequency_hz", "time_s", row_edges, column_edges, _coloured(tensor)
    )


def _mono(sound: Sound, spec: SpectrogramSpec) -> Floats:
    """The channels mixed to one, at the spec's rate and level, [n]."""
    channel, _ = mixed(sound)
    if spec.level == "peak":
        peak = float(np.abs(channel).max())
        channel = channel / peak if peak > 0 else channel
    else:
        channel = np.clip(channel, -_LOUDEST, _LOUDEST)
    samples: Floats = channel.astype(np.float32)
    if sound.sample_rate != spec.sample_rate:
        change = sinc_resampled if spec.resampler == "sinc" else soxr_resampled
        samples = change(samples, sound.sample_rate, spec.sample_rate)
    if not samples.size:  # less than one sample long at the lower rate
        samples = np.zeros(1, np.float32)
    return np.clip(samples, -1.0, 1.0) if spec.level == "clip" else samples


def _power(samples: Floats, spec: SpectrogramSpec) -> Floats:
    """Power [bands, columns] of the short-time spectrum, gathered into mel bands if asked."""
    half = spec.n_fft // 2
    padded = np.pad(samples, (half, max(half, spec.n_fft - half)))
    columns = 1 + len(samples) // spec.hop
    pieces = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop][:columns]
    spectrum = np.fft.rfft(pieces * _hann(spec.n_fft), axis=1)
    power: Floats = np.asarray(spectrum.real**2 + spectrum.imag**2, np.float32).T
    if spec.mel_bands is None:
        return power
    weights = mel_weights(
        spec.mel_bands, spec.fmin, spec.top_frequency, spec.sample_rate, spec.n_fft
    )
    return np.asarray(weights @ power, np.float32)


def _log_magnitude(power: Floats, spec: SpectrogramSpec) -> Floats:
    """ln(magnitude + floor), and nothing more than `range_db` below the loudest cell."""
    values: Floats = np.log(np.sqrt(power) + np.float32(spec.log_floor))
    if spec.range_db is None:
        return values
    return np.asarray(np.maximum(values, values.max() - _nepers(spec.range_db)))


def _nepers(decibels: float) -> float:
    return decibels * float(np.log(10)) / 20


def _noise_floor(power: Floats, values: Floats, spec: SpectrogramSpec) -> Floats:
    """The noise floor in ln magnitude of each band, [bands].

    Columns of digital silence (all at the bottom of the range) say nothing about the noise that
    the speech was recorded in, so they take no part. Power is averaged over a few columns
    first: the low percentiles of raw noise lie far below its level.
    """
    heard = values.max(axis=0) > values.min() + 1e-3
    if not heard.any():
        return np.asarray(values.min(axis=1))
    beside = np.pad(power[:, heard], ((0, 0), (0, _FLOOR_COLUMNS - 1)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(beside, _FLOOR_COLUMNS, axis=1).mean(axis=-1)
    rank = round((spec.floor_percentile or 0) / 100 * (smooth.shape[1] - 1))
    level = np.partition(smooth, rank, axis=1)[:, rank]
    floor: Floats = np.log(np.sqrt(level) + np.float32(spec.log_floor))
    return np.asarray(np.maximum(floor, values.min()))


def _quiet(values: Floats, spec: SpectrogramSpec) -> float:
    """What stands where there is no sound: the floor itself."""
    return 0.0 if spec.floor_share == 1 else float(values.min())


def _speech_start(above: Floats, window: int) -> int:
    """First column of the window that holds most speech; negative where it begins earlier.

    Speech is what rises clearly above its band's noise floor, squared in ln magnitude: neither
    stationary noise, however loud, nor a single loud click decides. The window weighs its
    middle most, so that a short word is centred.
    """
    rise = np.maximum(above - _SPEECH_MARGIN, 0)
    energy = np.einsum("bt,bt->t", rise, rise)
    if not energy.any():
        return (len(energy) - window) // 2
    return int(np.convolve(energy, _hann(window)).argmax()) - window + 1


def _cut(values: Floats, first: int, window: int, padding: float) -> Floats:
    """Columns first … first + window, `padding` where there are none."""
    cut = np.full((values.shape[0], window), padding, np.float32)
    begin, end = max(first, 0), min(first + window, values.shape[1])
    if begin < end:
        cut[:, begin - first : end - first] = values[:, begin:end]
    return cut


@lru_cache(maxsize=16)
def _hann(length: int) -> Floats:
    """Periodic Hann window."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


def _stretched(edges: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """The edges after a resize to `cells` cells."""
    at = np.linspace(0, len(edges) - 1, cells + 1)
    return np.interp(at, np.arange(len(edges)), edges)


def _coloured(values: Floats) -> Bytes:
    """Values [H, W] from dark to bright, RGB."""
    low, high = float(values.min()), float(values.max())
    grey = ((values - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_MAGMA)[:, :, ::-1])
