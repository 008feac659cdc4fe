"""Arrays to the tensors that a checkpoint was trained on.

A sound becomes a log-magnitude spectrogram and pictures become normalised frames, each as a
spec (model/preprocess/specs.py, part of a checkpoint's card) says. Training and serving both call
these functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from model.media.audio.downmix import mixed
from model.preprocess.prepared import Bytes, Floats, Prepared
from model.preprocess.resampling import bilinear, bilinear_part, sinc_resampled, soxr_resampled
from model.preprocess.specs import PROFILES, FrameSpec, Spec, SpectrogramSpec

if TYPE_CHECKING:
    from model.media.types import Pictures, Sound

__all__ = [
    "PROFILES",
    "FrameSpec",
    "Spec",
    "SpectrogramSpec",
    "frames",
    "prepare",
    "spectrogram",
    "spread",
]

#: What is louder (full scale is 1) is clipped whatever follows, and could overflow a float32 sum.
_LOUDEST = 1e6
#: Share of a picture that sets the level of its ink (the smallest digits cover about as much),
#: and the faintest ink, of 255, that is brought up to full strength.
_INK = 0.003
_FAINTEST = 12.0
#: Columns over which power is averaged before its percentile is taken as the noise floor, and
#: how far (ln magnitude) a cell must rise above that floor to count as speech.
_FLOOR_COLUMNS = 5
_SPEECH_MARGIN = 0.7


def prepare(
    specs: Mapping[str, Spec], sound: Sound | None, pictures: Pictures | None, steps: int
) -> dict[str, Prepared]:
    """Each stream that is there, as its spec says, for `steps` time steps."""
    prepared: dict[str, Prepared] = {}
    for name, spec in specs.items():
        if spec.kind == "spectrogram" and sound is not None:
            prepared[name] = spectrogram(sound, spec)
        if spec.kind == "frames" and pictures is not None:
            prepared[name] = frames(pictures, spec, steps)
    return prepared


def spectrogram(sound: Sound, spec: SpectrogramSpec) -> Prepared:
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
    row_edges = _band_edges(spec)
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


def frames(pictures: Pictures, spec: FrameSpec, steps: int) -> Prepared:
    """The pictures as a normalised tensor [T or 1, C, H, W], as `spec` says.

    "spread" takes the pictures at the centres of `steps` equal parts of the sequence; where
    that is one picture only, T is 1. Edges are in pixels of the middle picture taken.
    """
    taken = _taken(len(pictures.frames), spec, steps)
    tensors = {index: _frame(pictures.frames[index], spec) for index in set(taken)}
    order = taken if len(tensors) > 1 else taken[:1]
    middle = pictures.frames[taken[len(taken) // 2]]
    rows, columns = _edges(middle, spec)
    return Prepared(np.stack([tensors[index] for index in order]), "y", "x", rows, columns, middle)


# --- sound ---------------------------------------------------------------------------------


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
    weights = _mel_weights(
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


def _mel(frequency: float) -> float:
    """Slaney's mel scale: linear to 1 kHz, logarithmic above."""
    if frequency < 1000:
        return frequency * 3 / 200
    return 15 + 27 * float(np.log(frequency / 1000) / np.log(6.4))


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) / 27 * np.log(6.4)))


@lru_cache(maxsize=16)
def _mel_weights(bands: int, fmin: float, fmax: float, rate: int, n_fft: int) -> Floats:
    """Triangular bands [bands, n_fft // 2 + 1], each summing to 1.

    Each triangle is integrated over the bins' linear interpolation, so that none is empty where
    bands are narrower than bins.
    """
    points = _hertz(np.linspace(_mel(fmin), _mel(fmax), bands + 2))
    weights = np.zeros((bands, n_fft // 2 + 1))
    for band, (low, centre, high) in enumerate(zip(points, points[1:], points[2:], strict=False)):
        at = np.linspace(low, high, 203)[1:-1]
        height = np.minimum((at - low) / (centre - low), (high - at) / (high - centre))
        position = np.minimum(at * n_fft / rate, n_fft // 2)
        lower = np.minimum(position.astype(int), n_fft // 2 - 1)
        np.add.at(weights[band], lower, height * (lower + 1 - position))
        np.add.at(weights[band], lower + 1, height * (position - lower))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


@lru_cache(maxsize=16)
def _band_edges(spec: SpectrogramSpec) -> NDArray[np.float64]:
    """Edges in Hz of the rows before any resize, [bands + 1]."""
    if spec.mel_bands is None:
        bins = (np.arange(spec.bands + 1) - 0.5) * spec.sample_rate / spec.n_fft
        return np.clip(bins, 0, spec.sample_rate / 2)
    low, high = _mel(spec.fmin), _mel(spec.top_frequency)
    half = (high - low) / (spec.mel_bands + 1) / 2
    return _hertz(np.linspace(low + half, high - half, spec.mel_bands + 1))


def _stretched(edges: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """The edges after a resize to `cells` cells."""
    at = np.linspace(0, len(edges) - 1, cells + 1)
    return np.interp(at, np.arange(len(edges)), edges)


def _coloured(values: Floats) -> Bytes:
    """Values [H, W] from dark to bright, RGB."""
    low, high = float(values.min()), float(values.max())
    grey = ((values - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_MAGMA)[:, :, ::-1])


# --- pictures ------------------------------------------------------------------------------


def spread(count: int, parts: int) -> list[int]:
    """Which of `count` pictures are at the centres of `parts` equal parts of their sequence."""
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def _taken(count: int, spec: FrameSpec, steps: int) -> list[int]:
    """Indices of the pictures that are taken, one a step, or one."""
    return spread(count, 1 if spec.frames == "middle" else steps)


def _frame(picture: Bytes, spec: FrameSpec) -> Floats:
    """One picture [h, w, 3] as [C, H, W], normalised."""
    values = _cropped(picture, spec) if spec.fit == "crop" else _padded(picture, spec)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _normalised(values: Bytes | Floats, spec: FrameSpec) -> Floats:
    """(value / 255 - mean) / std as one product and one sum."""
    std = np.asarray(spec.std, np.float64)
    factor = (1 / (255 * std)).astype(np.float32)
    shift = (np.asarray(spec.mean) / std).astype(np.float32)
    return np.asarray(values * factor - shift, np.float32)


def _cropped(picture: Bytes, spec: FrameSpec) -> Floats:
    """Shorter side resized, centre cut out: only what is kept is ever computed."""
    height, width = picture.shape[:2]
    tall, wide = _shorter_to(height, width, spec.resize_shorter or 0)
    (top, rows), (left, columns) = _centre(tall, spec.size[0]), _centre(wide, spec.size[1])
    upper, lower, by_row = bilinear_part(height, tall, top, rows)
    begin, end, by_column = bilinear_part(width, wide, left, columns)
    part = picture[upper:lower, begin:end].astype(np.float32)
    # Each product mixes one axis: [rows, h] over the rows, then [columns, w] over the columns.
    values = np.einsum("rh,hwc->rwc", by_row, part, optimize=True)
    values = np.einsum("kw,rwc->rkc", by_column, values, optimize=True)
    return _normalised(np.rint(values), spec)


def _padded(picture: Bytes, spec: FrameSpec) -> Floats:
    """The whole picture, fitted and centred, 0 around it."""
    tall, wide, top, left = _fitted(picture, spec)
    small = _resized(picture, tall, wide, spec)
    values = np.zeros((*spec.size, spec.channels), np.float32)
    if spec.ground == "median":
        shown = levelled(_above_paper(small))[:, :, None]
    else:
        shown = _normalised(small, spec)
    values[top : top + tall, left : left + wide] = shown
    return values


def _above_paper(picture: Bytes | Floats) -> Floats:
    """How far each pixel [h, w] of a picture is from the paper, which is the median colour."""
    flat = picture.reshape(-1, 3)
    middle = len(flat) // 2
    paper = np.partition(flat, middle, axis=0)[middle].astype(np.float32)
    return np.asarray(np.abs(picture - paper).max(axis=2), np.float32)


def levelled(distance: Floats) -> Floats:
    """Distances from the paper [h, w], of 255, over that of the strongest ink, at most 1.

    The strongest _INK of the pixels set the level, so that a single speck does not. A picture of
    nothing but paper stays 0.
    """
    rank = distance.size - 1 - int(_INK * distance.size)
    level = max(float(np.partition(distance.ravel(), rank)[rank]), _FAINTEST)
    return np.asarray(np.minimum(distance / np.float32(level), 1), np.float32)


def _resized(picture: Bytes, tall: int, wide: int, spec: FrameSpec) -> Bytes | Floats:
    height, width = picture.shape[:2]
    if spec.resize == "area":
        shrinks = tall <= height and wide <= width
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(picture, (wide, tall), interpolation=how), np.uint8)
    part = picture.astype(np.float32)
    values = np.einsum("rh,hwc->rwc", bilinear(height, tall), part, optimize=True)
    values = np.einsum("kw,rwc->rkc", bilinear(width, wide), values, optimize=True)
    return np.asarray(np.rint(values), np.float32)


def _fitted(picture: Bytes, spec: FrameSpec) -> tuple[int, int, int, int]:
    """Height, width, top and left of the fitted picture in the tensor, in pixels."""
    (height, width), (rows, columns) = picture.shape[:2], spec.size
    scale = min(rows / height, columns / width)
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    return tall, wide, (rows - tall) // 2, (columns - wide) // 2


def _shorter_to(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Size after the shorter side became `shorter`; the longer is rounded down, as published."""
    if height <= width:
        return shorter, shorter * width // height
    return shorter * height // width, shorter


def _centre(length: int, kept: int) -> tuple[int, int]:
    """First pixel and number of the centre `kept` of `length` pixels, as published."""
    return round((length - kept) / 2), kept


def _edges(picture: Bytes, spec: FrameSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges of the tensor's rows and columns in pixels of the picture."""
    height, width = picture.shape[:2]
    if spec.fit == "pad":
        tall, wide, top, left = _fitted(picture, spec)
        return (
            (np.arange(spec.size[0] + 1) - top) * height / tall,
            (np.arange(spec.size[1] + 1) - left) * width / wide,
        )
    tall, wide = _shorter_to(height, width, spec.resize_shorter or 0)
    top, left = _centre(tall, spec.size[0])[0], _centre(wide, spec.size[1])[0]
    return (
        (np.arange(spec.size[0] + 1) + top) * height / tall,
        (np.arange(spec.size[1] + 1) + left) * width / wide,
    )
