"""Preprocessing specifications: how each stream of a checkpoint is preprocessed.

A checkpoint's card holds one spec for each stream. A further stream whose preprocessing is of one
of these kinds needs nothing here and nothing in the service: its file is sent in a field of its
name. A new kind of preprocessing needs a spec class and its row in `KINDS`, and a reader
(service/classification/upload_fields.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from model.preprocess.stream_spec import Deviation, Level, Share, Size, StreamSpec

#: Field names in cards written before avdigits 2.0.1, and the current names.
_RENAMED_FIELDS = {
    "hop": "hop_length",
    "mel_bands": "n_mels",
    "range_db": "top_db",
    "ground": "background",
}


class SpectrogramSpec(BaseModel):
    """Convert a sound to a log-magnitude spectrogram [1, 1, H, W]; row 0 is the lowest frequency.

    Steps, in order:

    1. Downmix to mono.
    2. Resample to `sample_rate` Hz. `resampler` "sinc" is the published method.
    3. Normalise the amplitude. `level` "clip" clips to [-1, 1], as published; "peak" divides by
       the largest absolute sample, which makes the result independent of gain.
    4. Short-time Fourier transform: periodic Hann window of `n_fft` samples, `hop_length`
       samples between columns, centred, zero padding.
    5. Average the power in `n_mels` mel bands from `fmin` to `fmax` Hz. None: keep the linear
       bins.
    6. ln(magnitude + `log_floor`).
    7. `top_db`: clip values more than this many dB below the maximum, as librosa does, so that
       digital silence and a quiet room look alike.
    8. `floor_percentile`: estimate each band's noise floor as this percentile over time, and
       subtract `floor_share` times the floor.
    9. `window_s`: keep the window of this many seconds that contains most speech. Columns outside
       the sound are filled with the noise floor. `window_inside`: a window in a longer sound does
       not reach beyond it.
    10. Clip to `clip` = (low, high), in ln units.
    11. `resize` "antialias": resize to `size` = (H, W) with antialiased bilinear interpolation,
        as published.
    12. (x - `mean`) / `std`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["spectrogram"] = "spectrogram"
    sample_rate: int = Field(ge=1000, le=192_000)
    n_fft: int = Field(ge=16, le=16_384)
    hop_length: int = Field(ge=1, le=16_384)
    resampler: Literal["soxr", "sinc"] = "soxr"
    level: Literal["clip", "peak"] = "clip"
    n_mels: int | None = Field(default=None, ge=4, le=512)
    fmin: float = Field(default=0.0, ge=0, le=96_000, allow_inf_nan=False)
    fmax: float | None = Field(default=None, gt=0, le=96_000, allow_inf_nan=False)
    log_floor: float = Field(default=1e-7, ge=1e-30, le=1, allow_inf_nan=False)
    scale: Literal["ln"] = "ln"
    top_db: float | None = Field(default=None, gt=0, le=1000, allow_inf_nan=False)
    floor_percentile: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    floor_share: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    window_s: float | None = Field(default=None, gt=0, le=60, allow_inf_nan=False)
    window_inside: bool = False
    clip: tuple[Level, Level] | None = None
    mean: Level = 0.0
    std: Deviation = 1.0
    size: Size
    resize: Literal["antialias", "none"] = "antialias"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.fmin < self.max_frequency <= self.sample_rate / 2:
            raise ValueError(
                f"fmin {self.fmin} must be below fmax {self.fmax}, and fmax at most half the "
                "sample rate"
            )
        if self.n_mels is None and (self.fmin > 0 or self.fmax is not None):
            raise ValueError("fmin and fmax require n_mels")
        if self.window_s is not None and self.floor_percentile is None:
            raise ValueError("window_s requires floor_percentile")
        if self.window_inside and self.window_s is None:
            raise ValueError("window_inside requires window_s")
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip {self.clip}: low must be below high")
        if self.resize == "none" and self.size != (self.bands, self.window_columns):
            raise ValueError(
                f"size {self.size}: must be (bands, window columns) = "
                f"{(self.bands, self.window_columns)} when resize is 'none'"
            )
        return self

    @property
    def channels(self) -> int:
        """Number of channels C of the tensor."""
        return 1

    @property
    def max_frequency(self) -> float:
        """Upper edge of the highest band, in Hz: `fmax`, or half the sample rate."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    @property
    def bands(self) -> int:
        """Number of rows of the spectrogram before the resize."""
        return self.n_fft // 2 + 1 if self.n_mels is None else self.n_mels

    @property
    def window_columns(self) -> int | None:
        """Number of columns in `window_s`; None keeps the whole sound."""
        if self.window_s is None:
            return None
        return max(1, round(self.window_s * self.sample_rate / self.hop_length))


class FrameSpec(BaseModel):
    """Convert pictures to a tensor [T or 1, C, H, W]: RGB, (value / 255 - `mean`) / `std`.

    - `fit` "pad": fit the whole frame into `size` = (H, W), centred, padded with 0 (the colour
      `mean`). "crop": resize the shorter side to `resize_shorter` pixels and crop the centre, as
      published.
    - `background` "median": take the median colour as the background, and keep one channel: each
      pixel's distance from the background, normalised to 1 at the strongest foreground. Dark on
      light, light on dark, faint and coloured writing then look alike. "none": keep RGB.
    - `resize` "antialias": bilinear, as Pillow and torchvision do. "area" (OpenCV): average when
      shrinking, bilinear when enlarging; much faster.
    - `frames` "spread": one picture for each time step. "middle": the middle picture, repeated by
      the encoding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["frames"] = "frames"
    fit: Literal["pad", "crop"]
    resize_shorter: int | None = Field(default=None, ge=4, le=4096)
    background: Literal["none", "median"] = "none"
    resize: Literal["antialias", "area"] = "antialias"
    size: Size
    mean: tuple[Level, Level, Level] = (0.0, 0.0, 0.0)
    std: tuple[Deviation, Deviation, Deviation] = (1.0, 1.0, 1.0)
    frames: Literal["spread", "middle"]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.fit == "crop") != (self.resize_shorter is not None):
            raise ValueError("fit 'crop' requires resize_shorter, and fit 'pad' forbids it")
        if self.resize_shorter is not None and self.resize_shorter < max(self.size):
            raise ValueError(f"resize_shorter {self.resize_shorter}: less than size {self.size}")
        if self.fit == "crop" and self.resize == "area":
            raise ValueError("resize 'area' requires fit 'pad'")
        has_levels = any(self.mean) or any(value != 1 for value in self.std)
        if self.background == "median" and has_levels:
            raise ValueError("background 'median' normalises by itself: omit mean and std")
        return self

    @property
    def channels(self) -> int:
        """Number of channels C of the tensor."""
        return 1 if self.background == "median" else 3


class EventFrameSpec(BaseModel):
    """Convert the events of a camera to a tensor [T, 2, H, W]: channel 0 OFF, channel 1 ON.

    Steps, in order:

    1. `hot_pixels`: leave out pixels that have more than this many times the events of the mean
       pixel with events. None: keep all, as published.
    2. Divide the time from the first to the last event into T equal bins of whole microseconds;
       events after the last full bin are left out, as published. With `share`, each step has
       instead this share of that time: the first step the beginning, the last the end, the others
       evenly between (a single step: the middle). They overlap where T x `share` > 1, and counts
       do not depend on T.
    3. `window`: of a larger sensor, keep the window of this height and width with most events, the
       middle one of several. None: keep the sensor. The sensor is that of the file; where the file
       does not say it, `sensor` (height, width), or what the coordinates need if that is larger.
    4. Scale the coordinates to `size` = (H, W).
    5. Count the events of each bin, polarity and cell.
    6. (count - `mean`) / `std`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["events"] = "events"
    size: Size
    sensor: Size | None = None
    window: Size | None = None
    hot_pixels: float | None = Field(default=None, gt=1, le=1e6, allow_inf_nan=False)
    share: Share | None = None
    mean: Level = 0.0
    std: Deviation = 1.0

    @property
    def channels(self) -> int:
        """Number of channels C of the tensor: one for each polarity."""
        return 2


#: Rows or columns of the grid of a cochlea's channels.
GridSide = Annotated[int, Field(ge=1, le=4096)]


class ChannelEventSpec(BaseModel):
    """Convert the events of a cochlea to a tensor [T, 1, H, W].

    The time is divided as by `EventFrameSpec`. The counts of the `bands` channels, from channel 0
    on, fill a `grid` (rows, columns) row by row, which is resized to `size` = (H, W) by bilinear
    interpolation, as published; then (count - `mean`) / `std`. Files with other channels are
    refused.

    With `columns`, the time of each step, a `share`, is divided into this many columns of a grid
    with a row for each channel; `grid` must be (`bands`, 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["audio_events"] = "audio_events"
    bands: int = Field(ge=1, le=4096)
    grid: tuple[GridSide, GridSide]
    size: Size
    share: Share | None = None
    columns: int | None = Field(default=None, ge=2, le=1024)
    mean: Level = 0.0
    std: Deviation = 1.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        rows, columns = self.grid
        if rows * columns != self.bands:
            raise ValueError(f"grid {self.grid}: must have {self.bands} cells, one for each band")
        if self.columns is not None and columns != 1:
            raise ValueError(f"grid {self.grid}: must be ({self.bands}, 1) with `columns`")
        if self.columns is not None and self.share is None:
            raise ValueError("columns: need a `share`")
        return self

    @property
    def channels(self) -> int:
        """Number of channels C of the tensor."""
        return 1


class SeriesSpec(BaseModel):
    """Convert a series of values over time to a tensor [1, 1, H, W]; row 0 is the lowest level.

    Steps, in order:

    1. `level` "peak" divides by the largest absolute value, which makes the result independent of
       a sensor's gain and unit. "none" keeps the values.
    2. `onset`: leave out what comes before the first value whose absolute value exceeds this share
       of the largest. None: keep all.
    3. Divide `duration_s` seconds into W columns, and interpolate linearly at the middle of each.
       What comes later is left out; columns after the last value are blank. None: divide the whole
       time of the series.
    4. A population code: row h stands for the level at its middle, of H equal parts from `low` to
       `high`, and has the activity exp(-d^2 / 2), where d is the distance from the value to that
       level, in units of `width` rows. Values beyond `low` and `high` are clipped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["series"] = "series"
    size: Size
    level: Literal["none", "peak"] = "none"
    onset: Share | None = None
    duration_s: float | None = Field(default=None, gt=0, le=3600, allow_inf_nan=False)
    low: float = Field(ge=-1e9, le=1e9, allow_inf_nan=False)
    high: float = Field(ge=-1e9, le=1e9, allow_inf_nan=False)
    width: float = Field(default=2.0, ge=0.1, le=1024, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low}: must be below high {self.high}")
        return self

    @property
    def channels(self) -> int:
        """Number of channels C of the tensor."""
        return 1


def _rename_old_fields(specs: Any) -> Any:
    """Rename the fields of specs from an older card, with one warning for all of them."""
    if not isinstance(specs, Mapping):
        return specs
    renamed: dict[str, str] = {}
    current: dict[Any, Any] = {}
    for stream, fields in specs.items():
        if isinstance(fields, Mapping):
            old = {name: new for name, new in _RENAMED_FIELDS.items() if name in fields}
            old = {name: new for name, new in old.items() if new not in fields}
            renamed |= old
            fields = {old.get(name, name): value for name, value in fields.items()}
        current[stream] = fields
    if renamed:
        names = ", ".join(f"{old} is now {new}" for old, new in renamed.items())
        warnings.warn(
            f"the card uses old field names, which the next release will reject: {names}",
            FutureWarning,
            stacklevel=2,
        )
    return current


#: The kinds of specs that a card can hold.
KINDS: tuple[type[StreamSpec], ...] = (
    SpectrogramSpec, FrameSpec, EventFrameSpec, ChannelEventSpec, SeriesSpec,
)  # fmt: skip


class _KindUnion:
    """Makes pydantic choose the class of a spec by its `kind`."""

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {_kind(spec): handler.generate_schema(spec) for spec in KINDS}
        return core_schema.tagged_union_schema(choices, discriminator="kind")


def _kind(spec: type[StreamSpec]) -> str:
    return str(cast(type[BaseModel], spec).model_fields["kind"].default)


#: A spec of one of `KINDS`.
Spec = Annotated[StreamSpec, _KindUnion()]
#: Spec by stream name, as in a card. Field names of older cards are accepted with a FutureWarning.
Specs = Annotated[dict[str, Spec], BeforeValidator(_rename_old_fields)]
