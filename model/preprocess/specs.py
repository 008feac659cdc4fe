"""How each stream of a checkpoint is preprocessed, as its card says it.

`PROFILES` holds the paper's preprocessing and that of `scmrl train avdigits`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Height or width of an input tensor, in pixels or cells.
_Side = Annotated[int, Field(ge=4, le=1024)]
#: Height and width.
Size = tuple[_Side, _Side]
#: A value in ln units, or of a pixel over 255.
_Level = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
#: A divisor that float32 values survive.
_Deviation = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]


class SpectrogramSpec(BaseModel):
    """How a sound becomes a tensor [1, 1, H, W]: row 0 is the lowest frequency.

    The sound is mixed to mono, brought to `sample_rate` Hz (`resampler` "sinc" is the published
    one) and levelled: `level` "clip" clips it to [-1, 1] as published, "peak" divides it by its
    loudest sample, so that gain does not matter. A short-time Fourier transform follows
    (periodic Hann of `n_fft` samples, step `hop`, centred, zero padding), its magnitudes
    gathered into `mel_bands` bands from `fmin` to `fmax` Hz where asked for, then
    ln(magnitude + `log_floor`).

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
    fmin: float = Field(default=0.0, ge=0, le=96_000, allow_inf_nan=False)
    fmax: float | None = Field(default=None, gt=0, le=96_000, allow_inf_nan=False)
    log_floor: float = Field(default=1e-7, ge=1e-30, le=1, allow_inf_nan=False)
    scale: Literal["ln"] = "ln"
    range_db: float | None = Field(default=None, gt=0, le=1000, allow_inf_nan=False)
    floor_percentile: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    floor_share: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    window_s: float | None = Field(default=None, gt=0, le=60, allow_inf_nan=False)
    clip: tuple[_Level, _Level] | None = None
    mean: _Level = 0.0
    std: _Deviation = 1.0
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
    def channels(self) -> int:
        """Channels C of the tensor."""
        return 1

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
    """How pictures become a tensor [T or 1, C, H, W]: RGB, (value / 255 - `mean`) / `std`.

    - `fit` "pad": the whole frame is fitted into `size` = (H, W), centred, and padded with 0
      (which is `mean`'s colour); nothing is cropped. "crop": the shorter side becomes
      `resize_shorter` pixels and the centre is cut out, as published.
    - `ground` "median": the paper is a picture's median colour, and one channel is kept: how far
      each pixel is from it, levelled so that the strongest ink is 1. Dark on light, light on
      dark, faint and coloured ink then look alike, as a sound's gain does not matter either.
    - `resize`: "antialias" is Pillow's and torchvision's bilinear; "area" (OpenCV) averages the
      pixels that fall into one when shrinking, is bilinear when enlarging, and is much faster.
    - `frames`: "spread": a picture for each step; "middle": one, repeated by the encoding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["frames"] = "frames"
    fit: Literal["pad", "crop"]
    resize_shorter: int | None = Field(default=None, ge=4, le=4096)
    ground: Literal["none", "median"] = "none"
    resize: Literal["antialias", "area"] = "antialias"
    size: Size
    mean: tuple[_Level, _Level, _Level] = (0.0, 0.0, 0.0)
    std: tuple[_Deviation, _Deviation, _Deviation] = (1.0, 1.0, 1.0)
    frames: Literal["spread", "middle"]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.fit == "crop") != (self.resize_shorter is not None):
            raise ValueError("resize_shorter belongs to fit 'crop', and only to it")
        if self.resize_shorter is not None and self.resize_shorter < max(self.size):
            raise ValueError(f"resize_shorter {self.resize_shorter}: less than size {self.size}")
        if self.fit == "crop" and self.resize == "area":
            raise ValueError("resize 'area' belongs to fit 'pad'")
        if self.ground == "median":
            if self.fit == "crop":
                raise ValueError("ground 'median' belongs to fit 'pad'")
            if any(self.mean) or any(value != 1 for value in self.std):
                raise ValueError("ground 'median' has a level of its own: leave out mean and std")
        return self

    @property
    def channels(self) -> int:
        """Channels C of the tensor."""
        return 1 if self.ground == "median" else 3


Spec = Annotated[SpectrogramSpec | FrameSpec, Field(discriminator="kind")]


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
            hop=60,
            level="peak",
            mel_bands=64,
            fmin=60.0,
            fmax=3900.0,
            range_db=28.0,
            floor_percentile=10.0,
            window_s=1.44,
            clip=(0.0, 5.0),
            std=5.0,
            size=(64, 192),
            resize="none",
        ),
        "visual": FrameSpec(
            fit="pad",
            ground="median",
            resize="area",
            size=(96, 128),
            frames="spread",
        ),
    },
}
