"""Preprocessing for clips of one's own: natural pictures, speech, and general sound."""

from __future__ import annotations

from model.preprocess.specs import FrameSpec, Spec, SpectrogramSpec

#: Kinds of sounds, and seconds of them that are kept by default: a spoken word, or an event.
SOUNDS = {"speech": 1.6, "general": 4.0}
#: Names of the streams, and what they are called in reports.
TITLES = {"audio": "sound", "visual": "picture"}
#: The preprocessing of each.
SPECS: dict[str, type[Spec]] = {"audio": SpectrogramSpec, "visual": FrameSpec}
#: Sample rate in Hz, and mel bands of a spectrogram: 4 rows of tokens of 16 x 16.
RATE, BANDS = 16_000, 64
#: Pixels or cells of a token's side (`deep` patch splitting).
TOKEN = 16


def specs_of(
    streams: frozenset[str], sound: str, seconds: float, picture_size: int, fit: str
) -> dict[str, Spec]:
    """Return the preprocessing of the streams. Values are in [0, 1], as every encoding needs.

    `picture_size` is the side of the square pictures, a multiple of 2 TOKEN. The spectrogram has
    as many tokens, since temporal attention pairs them. `seconds` of sound are kept; 0: as long
    as SOUNDS says.
    """
    specs: dict[str, Spec] = {}
    if "audio" in streams:
        tokens = (picture_size // TOKEN) ** 2
        columns = TOKEN * tokens // (BANDS // TOKEN)
        specs["audio"] = _spectrogram(sound, seconds or SOUNDS[sound], columns)
    if "visual" in streams:
        size = (picture_size, picture_size)
        if fit == "crop":
            specs["visual"] = FrameSpec(
                fit="crop", resize_shorter=picture_size, size=size, frames="spread"
            )
        else:
            specs["visual"] = FrameSpec(fit="pad", resize="area", size=size, frames="spread")
    return specs


def _spectrogram(sound: str, seconds: float, columns: int) -> SpectrogramSpec:
    """Return the spectrogram of this many columns.

    Of speech, what rises above the noise floor counts. General sound keeps its floor, since a
    steady sound, such as a motor's, would be subtracted with it.
    """
    hop = max(1, round(seconds * RATE / columns))
    is_speech = sound == "speech"
    levels: tuple[float, float] = (0.0, 5.0) if is_speech else (-5.0, 5.0)
    return SpectrogramSpec(
        sample_rate=RATE,
        n_fft=512,
        hop_length=hop,
        level="peak",
        n_mels=BANDS,
        fmin=60.0 if is_speech else 40.0,
        fmax=7600.0 if is_speech else 7900.0,
        top_db=40.0 if is_speech else 70.0,
        floor_percentile=10.0,
        floor_share=1.0 if is_speech else 0.0,
        window_s=columns * hop / RATE,
        window_inside=not is_speech,
        clip=levels,
        mean=levels[0],
        std=levels[1] - levels[0],
        size=(BANDS, columns),
        resize="none",
    )
