"""Convert a sound to a log-magnitude spectrogram."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from model.arrays import Float32Array, Float64Array, UInt8Array
from model.media.audio.downmix import downmix
from model.media.audio.resample import resample_sinc, resample_soxr
from model.preprocess.bilinear import bilinear_weights
from model.preprocess.mel import band_edges, mel_weights
from model.preprocess.prepared import Prepared
from model.preprocess.specs import SpectrogramSpec

if TYPE_CHECKING:
    from model.media.types import Sound

#: Samples beyond this (full scale is 1) are clipped: their sum could overflow float32.
_MAX_AMPLITUDE = 1e6
#: Columns over which power is averaged before its percentile gives the noise floor.
_FLOOR_COLUMNS = 5
#: How far (ln magnitude) a cell must rise above the noise floor to count as speech.
_SPEECH_MARGIN = 0.7


def prepare_spectrogram(sound: Sound, spec: SpectrogramSpec) -> Prepared:
    """Return the sound's log-magnitude spectrogram, tensor [1, 1, H, W], as `spec` describes it.

    `column_edges` are in seconds from the beginning of the sound. The sound must be finite and
    have at least one sample.
    """
    power = _power_spectrogram(_to_mono(sound, spec), spec)
    values = _log_magnitude(power, spec)  # [bands, columns]
    first_column = 0
    if spec.floor_percentile is not None:
        floor = _noise_floor(power, values, spec)
        above_floor = values - floor[:, None]
        values = values - spec.floor_share * floor[:, None]
        if spec.window_columns is not None:
            first_column = _speech_start(above_floor, spec.window_columns)
            latest = values.shape[1] - spec.window_columns
            if spec.window_inside and latest >= 0:
                first_column = min(max(first_column, 0), latest)
            values = _crop_columns(
                values, first_column, spec.window_columns, _padding_value(values, spec)
            )
    if spec.clip is not None:
        values = np.clip(values, *spec.clip)
    rows, columns = values.shape
    row_edges = band_edges(spec)
    column_edges = first_column + np.arange(columns + 1) - 0.5
    column_edges = column_edges * spec.hop_length / spec.sample_rate
    height, width = spec.size
    if spec.resize == "antialias":
        resized = bilinear_weights(rows, height) @ values @ bilinear_weights(columns, width).T
        values = np.asarray(resized, np.float32)
        row_edges = _resize_edges(row_edges, height)
        column_edges = _resize_edges(column_edges, width)
    tensor = ((values - spec.mean) / spec.std).astype(np.float32, copy=False)
    return Prepared(
        tensor[None, None],
        rows="frequency_hz",
        columns="time_s",
        row_edges=row_edges,
        column_edges=column_edges,
        canvas=lambda: _apply_colormap(tensor),
    )


def _to_mono(sound: Sound, spec: SpectrogramSpec) -> Float32Array:
    """Downmix, normalise and resample the sound to samples [n] at the spec's rate."""
    channel, _ = downmix(sound)
    if spec.level == "peak":
        peak = max(float(channel.max()), -float(channel.min()))
        # Divided in the precision of the channel, and rounded on the way: no array is between.
        samples = np.empty(len(channel), np.float32)
        np.divide(channel, peak if peak > 0 else 1.0, out=samples, casting="same_kind")
    else:
        samples = np.asarray(np.clip(channel, -_MAX_AMPLITUDE, _MAX_AMPLITUDE), np.float32)
    if sound.sample_rate != spec.sample_rate:
        resample = resample_sinc if spec.resampler == "sinc" else resample_soxr
        samples = resample(samples, sound.sample_rate, spec.sample_rate)
    if not samples.size:  # shorter than one sample at the lower rate
        samples = np.zeros(1, np.float32)
    return np.clip(samples, -1.0, 1.0) if spec.level == "clip" else samples


def _power_spectrogram(samples: Float32Array, spec: SpectrogramSpec) -> Float32Array:
    """Return the short-time power spectrum [bands, columns], in mel bands if `n_mels` is set."""
    half = spec.n_fft // 2
    padded = np.zeros(len(samples) + half + max(half, spec.n_fft - half), np.float32)
    padded[half : half + len(samples)] = samples
    columns = 1 + len(samples) // spec.hop_length
    (step,) = padded.strides
    windows = np.lib.stride_tricks.as_strided(
        padded, (columns, spec.n_fft), (spec.hop_length * step, step), writeable=False
    )
    spectrum = np.fft.rfft(windows * _hann_window(spec.n_fft), axis=1)
    power: Float32Array = np.asarray(spectrum.real**2 + spectrum.imag**2, np.float32).T
    if spec.n_mels is None:
        return power
    weights = mel_weights(spec.n_mels, spec.fmin, spec.max_frequency, spec.sample_rate, spec.n_fft)
    return np.asarray(weights @ power, np.float32)


def _log_magnitude(power: Float32Array, spec: SpectrogramSpec) -> Float32Array:
    """Return ln(magnitude + `log_floor`), clipped to `top_db` below its maximum."""
    values: Float32Array = np.log(np.sqrt(power) + np.float32(spec.log_floor))
    if spec.top_db is None:
        return values
    return np.asarray(np.maximum(values, values.max() - _db_to_ln(spec.top_db)))


def _db_to_ln(decibels: float) -> float:
    return decibels * float(np.log(10)) / 20


def _noise_floor(power: Float32Array, values: Float32Array, spec: SpectrogramSpec) -> Float32Array:
    """Return the noise floor [bands] in ln magnitude.

    Columns of digital silence (every cell at the minimum) are left out: they do not contain the
    noise that the speech was recorded in. Power is averaged over a few columns first, because
    the low percentiles of unsmoothed noise lie far below its level.
    """
    is_recorded = values.max(axis=0) > values.min() + 1e-3
    if not is_recorded.any():
        return np.asarray(values.min(axis=1))
    smooth = _moving_average(power[:, is_recorded], _FLOOR_COLUMNS)
    rank = round((spec.floor_percentile or 0) / 100 * (smooth.shape[1] - 1))
    level = np.partition(smooth, rank, axis=1)[:, rank]
    floor: Float32Array = np.log(np.sqrt(level) + np.float32(spec.log_floor))
    return np.asarray(np.maximum(floor, values.min()))


def _moving_average(power: Float32Array, length: int) -> Float32Array:
    """Return the mean [bands, columns] of each column and the `length` - 1 behind it.

    The last column is repeated. A sum of shifted arrays is ten times as fast as means of windows.
    """
    columns = power.shape[1]
    padded = np.empty((len(power), columns + length - 1), np.float32)
    padded[:, :columns] = power
    padded[:, columns:] = power[:, -1:]
    total = padded[:, :columns].copy()
    for shift in range(1, length):
        total += padded[:, shift : shift + columns]
    return np.asarray(total / np.float32(length), np.float32)


def _padding_value(values: Float32Array, spec: SpectrogramSpec) -> float:
    """Return the value of columns outside the sound: the noise floor's."""
    return 0.0 if spec.floor_share == 1 else float(values.min())


def _speech_start(above_floor: Float32Array, window: int) -> int:
    """Return the first column of the window with most speech; negative before the sound begins.

    Speech energy is the squared rise of ln magnitude above the band's noise floor, so that
    neither loud stationary noise nor a single click decides. A Hann weighting centres a short
    word in the window.
    """
    rise = np.maximum(above_floor - _SPEECH_MARGIN, 0)
    energy = np.einsum("bt,bt->t", rise, rise)
    if not energy.any():
        return (len(energy) - window) // 2
    return int(np.convolve(energy, _hann_window(window)).argmax()) - window + 1


def _crop_columns(values: Float32Array, first: int, window: int, padding: float) -> Float32Array:
    """Return columns `first` to `first + window`, filled with `padding` outside `values`."""
    window_values = np.full((values.shape[0], window), padding, np.float32)
    begin, end = max(first, 0), min(first + window, values.shape[1])
    if begin < end:
        window_values[:, begin - first : end - first] = values[:, begin:end]
    return window_values


@lru_cache(maxsize=16)
def _hann_window(length: int) -> Float32Array:
    """Return the periodic Hann window [length]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


def _resize_edges(edges: Float64Array, cells: int) -> Float64Array:
    """Return the edges [cells + 1] of an axis after its resize to `cells` cells."""
    positions = np.linspace(0, len(edges) - 1, cells + 1)
    return np.interp(positions, np.arange(len(edges)), edges)


def _apply_colormap(values: Float32Array) -> UInt8Array:
    """Return `values` [H, W] as RGB [H, W, 3], dark for the lowest and bright for the highest."""
    low, high = float(values.min()), float(values.max())
    grey = ((values - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_MAGMA)[:, :, ::-1])
