"""Arrays to the tensors that a checkpoint was trained on.

A sound becomes a log-magnitude spectrogram and pictures become normalised frames, each as a
spec says; the specs are part of a checkpoint's card. `PROFILES` holds the paper's (section 4.1)
and that of the embedded checkpoint. Training and serving both call these two functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal, Self

import cv2
import numpy as np
import scipy.fft
import scipy.ndimage
import soxr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from model.media import Pictures, Sound

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

Size = tuple[Annotated[int, Field(ge=4, le=1024)], Annotated[int, Field(ge=4, le=1024)]]

#: Columns over which power is averaged before its percentile is taken as the noise floor, and
#: how far (ln magnitude) a cell must rise above that floor to count as speech.
_FLOOR_COLUMNS = 5
_SPEECH_MARGIN = 0.7


class SpectrogramSpec(BaseModel):
    """How a sound becomes a tensor [1, 1, H, W]: row 0 is the lowest frequency.

    The sound is mixed to mono, brought to `sample_rate` Hz and levelled: `level` "clip" clips it
    to [-1, 1] as published, "peak" divides it by its loudest sample, so that gain does not
    matter. `resampler` "sinc" is the published one. A short-time Fourier transform follows (periodic Hann of `n_fft` samples, step `hop`,
    centred, zero padding), its magnitudes gathered into `mel_bands` bands from `fmin` to `fmax`
    Hz where asked for, then ln(magnitude + `log_floor`).

    - `range_db`: nothing is quieter than this many dB below the loudest cell, so that digital
      silence and a quiet room look alike.
    - `floor_percentile`: per band, this percentile over time is its noise floor, and
      `floor_share` of it is subtracted.
    - `window_s`: that many seconds are kept, those with most speech, padded with the floor.
    - `clip`: (low, high) in ln units, before (x - `mean`) / `std`.
    - `resize`: "antialias" is the published bilinear resize to `size` = (H, W).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["spectrogram"] = "spectrogram"
    sample_rate: int = Field(ge=1000, le=192_000)
    n_fft: int = Field(ge=16, le=16_384)
    hop: int = Field(ge=1, le=16_384)
    resampler: Literal["soxr", "sinc"] = "soxr"
    level: Literal["clip", "peak"] = "clip"
    mel_bands: int | None = Field(default=None, ge=4, le=512)
    fmin: float = Field(default=0.0, ge=0)
    fmax: float | None = Field(default=None, gt=0)
    log_floor: float = Field(default=1e-7, gt=0)
    scale: Literal["ln"] = "ln"
    range_db: float | None = Field(default=None, gt=0)
    floor_percentile: float | None = Field(default=None, ge=0, le=100)
    floor_share: float = Field(default=1.0, ge=0, le=1)
    window_s: float | None = Field(default=None, gt=0, le=60)
    clip: tuple[float, float] | None = None
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    size: Size
    resize: Literal["antialias", "none"] = "antialias"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.fmin < self.top_frequency <= self.sample_rate / 2:
            raise ValueError(f"fmin {self.fmin} < fmax {self.fmax} <= half the sample rate")
        if self.mel_bands is None and (self.fmin > 0 or self.fmax is not None):
            raise ValueError("fmin and fmax choose mel bands: set mel_bands as well")
        if self.window_s is not None and self.floor_percentile is None:
            raise ValueError("window_s finds speech above the noise: set floor_percentile as well")
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip {self.clip}: low must be below high")
        if self.resize == "none" and self.size != (self.bands, self.window_columns):
            raise ValueError(
                f"size {self.size}: without a resize it is (bands, columns of the window), "
                f"here {(self.bands, self.window_columns)}"
            )
        return self

    @property
    def top_frequency(self) -> float:
        """Highest frequency in Hz."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    @property
    def bands(self) -> int:
        """Rows of the spectrogram before any resize."""
        return self.n_fft // 2 + 1 if self.mel_bands is None else self.mel_bands

    @property
    def window_columns(self) -> int | None:
        """Columns that `window_s` keeps; None for the whole sound."""
        if self.window_s is None:
            return None
        return max(1, round(self.window_s * self.sample_rate / self.hop))


class FrameSpec(BaseModel):
    """How pictures become a tensor [T or 1, 3, H, W], RGB, (value / 255 - `mean`) / `std`.

    - `fit` "pad": the whole frame is fitted into `size` = (H, W), centred, and padded with 0
      (which is `mean`'s colour); nothing is cropped. "crop": the shorter side becomes
      `resize_shorter` pixels and the centre is cut out, as published.
    - `resize`: "antialias" is Pillow's and torchvision's bilinear; "area" (OpenCV) averages the
      pixels that fall into one when shrinking, is bilinear when enlarging, and is much faster.
    - `frames`: "spread": a picture for each step; "middle": one, repeated by the encoding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["frames"] = "frames"
    fit: Literal["pad", "crop"]
    resize_shorter: int | None = Field(default=None, ge=4, le=4096)
    resize: Literal["antialias", "area"] = "antialias"
    size: Size
    mean: tuple[float, float, float]
    std: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ]
    frames: Literal["spread", "middle"]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.fit == "crop") != (self.resize_shorter is not None):
            raise ValueError("resize_shorter belongs to fit 'crop', and only to it")
        if self.resize_shorter is not None and self.resize_shorter < max(self.size):
            raise ValueError(f"resize_shorter {self.resize_shorter}: less than size {self.size}")
        if self.fit == "crop" and self.resize == "area":
            raise ValueError("resize 'area' belongs to fit 'pad'")
        return self


Spec = Annotated[SpectrogramSpec | FrameSpec, Field(discriminator="kind")]


@dataclass(frozen=True)
class Prepared:
    """One stream of one clip, ready for the encoding.

    `tensor` float32 [T or 1, C, H, W]. `rows` and `columns` name its axes ("y", "x" in pixels of
    the frame, or "frequency_hz", "time_s"); `row_edges` [H + 1] and `column_edges` [W + 1] are
    where each cell begins and ends, outside the frame or the sound where there is padding.
    `canvas` uint8 RGB [h, w, 3] is what a map can be drawn on: the middle frame, or the tensor's
    spectrogram in colours, row for row and column for column.
    """

    tensor: Floats
    rows: str
    columns: str
    row_edges: NDArray[np.float64]
    column_edges: NDArray[np.float64]
    canvas: Bytes


_PAPER_AUDIO = SpectrogramSpec(
    sample_rate=22_050, resampler="sinc", n_fft=512, hop=353, size=(128, 128)
)
_PAPER_VISUAL = FrameSpec(
    fit="crop",
    resize_shorter=256,
    size=(128, 128),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    frames="middle",
)

PROFILES: dict[str, dict[str, SpectrogramSpec | FrameSpec]] = {
    "crema_d": {"audio": _PAPER_AUDIO, "visual": _PAPER_VISUAL},
    "urbansound8k_av": {"audio": _PAPER_AUDIO, "visual": _PAPER_VISUAL},
    "avdigits": {
        "audio": SpectrogramSpec(
            sample_rate=8000,
            n_fft=256,
            hop=100,
            level="peak",
            mel_bands=64,
            fmin=60.0,
            fmax=3900.0,
            range_db=60.0,
            floor_percentile=10.0,
            window_s=1.8,
            clip=(0.0, 5.0),
            std=5.0,
            size=(64, 144),
            resize="none",
        ),
        "visual": FrameSpec(
            fit="pad",
            resize="area",
            size=(96, 96),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            frames="spread",
        ),
    },
}


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
        values = _bilinear(rows, height) @ values @ _bilinear(columns, width).T
        row_edges = _stretched(row_edges, height)
        column_edges = _stretched(column_edges, width)
    tensor = ((values - spec.mean) / spec.std).astype(np.float32, copy=False)
    return Prepared(
        tensor[None, None], "frequency_hz", "time_s", row_edges, column_edges, _coloured(tensor)
    )


def frames(pictures: Pictures, spec: FrameSpec, steps: int) -> Prepared:
    """The pictures as a normalised tensor [T or 1, 3, H, W], as `spec` says.

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
    """Mean of the channels at the spec's rate and level, [n]."""
    mixed = sound.samples.mean(axis=0, dtype=np.float64)
    if spec.level == "peak":
        peak = float(np.abs(mixed).max())
        mixed = mixed / peak if peak > 0 else mixed
    samples = mixed.astype(np.float32)
    if sound.sample_rate != spec.sample_rate:
        change = _sinc_resampled if spec.resampler == "sinc" else _soxr_resampled
        samples = change(samples, sound.sample_rate, spec.sample_rate)
    if not samples.size:  # less than one sample long at the lower rate
        samples = np.zeros(1, np.float32)
    return np.clip(samples, -1.0, 1.0) if spec.level == "clip" else samples


def _soxr_resampled(samples: Floats, old: int, new: int) -> Floats:
    return np.asarray(soxr.resample(samples, old, new, "HQ"), np.float32)


def _sinc_resampled(samples: Floats, old: int, new: int) -> Floats:
    """Resampling as published: a sinc of six zero crossings under a Hann window.

    It leaves images above an upsampled sound's band, 60 dB down, that networks trained on it
    have seen. Output i of `new` lies at input i old / new.
    """
    divisor = math.gcd(old, new)
    old, new = old // divisor, new // divisor
    firsts, weights = _sinc_weights(old, new)
    taps = weights.shape[1]
    count = -(-len(samples) * new // old)
    turns = -(-count // new)
    before = -int(firsts[0])
    after = max(0, int(firsts[-1]) + (turns - 1) * old + taps - len(samples))
    pieces = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (before, after)), taps)
    result = np.empty((turns, new), np.float32)
    for phase, (first, weight) in enumerate(zip(firsts, weights, strict=True)):
        result[:, phase] = pieces[first + before :: old][:turns] @ weight
    return result.ravel()[:count]


@lru_cache(maxsize=4)
def _sinc_weights(old: int, new: int) -> tuple[NDArray[np.int64], Floats]:
    """First input [new] and weights [new, taps] of each of the `new` phases."""
    crossings, rolloff = 6, 0.99
    cutoff = min(old, new) * rolloff
    width = math.ceil(crossings * old / cutoff)
    positions = np.arange(new) * old / new
    firsts = np.floor(positions).astype(np.int64) - width
    inputs = firsts[:, None] + np.arange(2 * width + 2)
    at = np.clip((inputs - positions[:, None]) * cutoff / old, -crossings, crossings)
    weights = np.sinc(at) * np.cos(at * np.pi / crossings / 2) ** 2 * cutoff / old
    return firsts, weights.astype(np.float32)


def _power(samples: Floats, spec: SpectrogramSpec) -> Floats:
    """Power [bands, columns] of the short-time spectrum, gathered into mel bands if asked."""
    half = spec.n_fft // 2
    padded = np.pad(samples, (half, max(half, spec.n_fft - half)))
    columns = 1 + len(samples) // spec.hop
    pieces = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop][:columns]
    spectrum = scipy.fft.rfft(pieces * _hann(spec.n_fft), axis=1)
    power: Floats = (spectrum.real**2 + spectrum.imag**2).T
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
    return np.maximum(values, values.max() - _nepers(spec.range_db))


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
    smooth = scipy.ndimage.uniform_filter1d(power[:, heard], _FLOOR_COLUMNS, axis=1)
    rank = round((spec.floor_percentile or 0) / 100 * (smooth.shape[1] - 1))
    level = np.partition(smooth, rank, axis=1)[:, rank]
    floor: Floats = np.log(np.sqrt(level) + np.float32(spec.log_floor))
    return np.maximum(floor, values.min())


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
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


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


def _taken(count: int, spec: FrameSpec, steps: int) -> list[int]:
    """Indices of the pictures that are taken, one a step, or one."""
    parts = 1 if spec.frames == "middle" else steps
    return [(2 * step + 1) * count // (2 * parts) for step in range(parts)]


def _frame(picture: Bytes, spec: FrameSpec) -> Floats:
    """One picture [h, w, 3] as [3, H, W], normalised."""
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
    upper, lower, by_row = _bilinear_part(height, tall, top, rows)
    begin, end, by_column = _bilinear_part(width, wide, left, columns)
    part = picture[upper:lower, begin:end].astype(np.float32)
    # Each product mixes one axis: [rows, h] over the rows, then [columns, w] over the columns.
    values = np.einsum("rh,hwc->rwc", by_row, part, optimize=True)
    values = np.einsum("kw,rwc->rkc", by_column, values, optimize=True)
    return _normalised(np.rint(values), spec)


def _padded(picture: Bytes, spec: FrameSpec) -> Floats:
    """The whole picture, fitted and centred, 0 around it."""
    tall, wide, top, left = _fitted(picture, spec)
    small = _resized(picture, tall, wide, spec)
    values = np.zeros((*spec.size, 3), np.float32)
    values[top : top + tall, left : left + wide] = _normalised(small, spec)
    return values


def _resized(picture: Bytes, tall: int, wide: int, spec: FrameSpec) -> Bytes | Floats:
    height, width = picture.shape[:2]
    if spec.resize == "area":
        shrinks = tall <= height and wide <= width
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(picture, (wide, tall), interpolation=how), np.uint8)
    part = picture.astype(np.float32)
    values = np.einsum("rh,hwc->rwc", _bilinear(height, tall), part, optimize=True)
    values = np.einsum("kw,rwc->rkc", _bilinear(width, wide), values, optimize=True)
    return np.rint(values)


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


@lru_cache(maxsize=64)
def _bilinear_part(length: int, resized: int, first: int, count: int) -> tuple[int, int, Floats]:
    """Antialiased bilinear weights for outputs first … first + count of `resized`.

    Returns begin, end and weights [count, end - begin] over inputs begin … end of `length`:
    a triangle as wide as an output pixel (an input pixel, when enlarging) around its centre.
    """
    scale = length / resized
    reach = max(scale, 1.0)
    centres = (np.arange(first, first + count) + 0.5) * scale
    begin = max(0, int(np.floor(centres[0] - reach)))
    end = min(length, int(np.ceil(centres[-1] + reach)) + 1)
    inputs = np.arange(begin, end) + 0.5
    weights = np.maximum(0.0, 1 - np.abs(inputs[None] - centres[:, None]) / reach)
    return begin, end, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _bilinear(length: int, resized: int) -> Floats:
    """Antialiased bilinear weights [resized, length]."""
    return _bilinear_part(length, resized, 0, resized)[2]
