"""The specs of the paper's data sets, and of the tasks of `scmrl train` that fix theirs."""

from __future__ import annotations

from model.preprocess.specs import (
    ChannelEventSpec,
    EventFrameSpec,
    FrameSpec,
    SeriesSpec,
    SpectrogramSpec,
)

_PAPER_AUDIO = SpectrogramSpec(
    sample_rate=22_050, resampler="sinc", n_fft=512, hop_length=353, size=(128, 128)
)
_PAPER_VISUAL = FrameSpec(
    fit="crop",
    resize_shorter=256,
    size=(128, 128),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    frames="middle",
)

_SPOKEN_DIGIT = SpectrogramSpec(
    sample_rate=8000,
    n_fft=256,
    hop_length=60,
    level="peak",
    n_mels=64,
    fmin=60.0,
    fmax=3900.0,
    top_db=28.0,
    floor_percentile=10.0,
    window_s=1.44,
    clip=(0.0, 5.0),
    std=5.0,
    size=(64, 192),
    resize="none",
)

_WRITTEN_DIGIT = FrameSpec(
    fit="pad", background="median", resize="area", size=(96, 128), frames="spread"
)

#: Specs by data set and stream name.
PROFILES: dict[
    str, dict[str, SpectrogramSpec | FrameSpec | EventFrameSpec | ChannelEventSpec | SeriesSpec]
] = {
    "crema_d": {"audio": _PAPER_AUDIO, "visual": _PAPER_VISUAL},
    "urbansound8k_av": {"audio": _PAPER_AUDIO, "visual": _PAPER_VISUAL},
    # Published frames are 28 x 28; the digits of MNIST-DVS, at scale 4, fill 26 x 26 of 128 x 128.
    "mnistdvs_ntidigits": {
        "audio": ChannelEventSpec(bands=64, grid=(8, 8), size=(28, 28)),
        "visual": EventFrameSpec(size=(28, 28), window=(28, 28), mean=0.1307, std=0.3081),
    },
    "avdigits": {"audio": _SPOKEN_DIGIT, "visual": _WRITTEN_DIGIT},
    # As many tokens for the force (4 x 12) as for the sound (4 x 12) and the picture (6 x 8).
    "avdigits-tactile": {
        "audio": _SPOKEN_DIGIT,
        "visual": _WRITTEN_DIGIT,
        "tactile": SeriesSpec(
            size=(64, 192), level="peak", onset=0.1, duration_s=1.4, low=-0.1, high=1.1
        ),
    },
    # As many tokens as the sound has (4 x 12), as the attention over time needs: 6 x 8.
    "handsigns": {
        "audio": _SPOKEN_DIGIT,
        "visual": FrameSpec(
            fit="pad",
            resize="area",
            size=(96, 128),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            frames="spread",
        ),
    },
    # As many tokens for the sound (2 x 8) as for the picture (4 x 4). The middle two thirds of a
    # window that follows an object hold the object; a sky of any colour looks like a page.
    "drones": {
        "audio": SpectrogramSpec(
            sample_rate=16_000,
            n_fft=512,
            hop_length=360,
            level="peak",
            n_mels=32,
            fmin=40.0,
            fmax=7900.0,
            top_db=70.0,
            floor_percentile=10.0,
            floor_share=0.0,
            window_s=2.88,
            window_inside=True,
            clip=(-5.0, 5.0),
            mean=-2.0,
            std=4.0,
            size=(32, 128),
            resize="none",
        ),
        "visual": FrameSpec(
            fit="crop",
            resize_shorter=128,
            background="median",
            size=(64, 64),
            frames="spread",
        ),
    },
    # As many tokens for the sound (4 x 16) as for the events (8 x 8). Sixteen rows lie
    # within what a token sees, so that it knows which frequencies it sees.
    "ndigits-events": {
        "audio": ChannelEventSpec(
            bands=32, grid=(32, 1), size=(16, 64), share=0.75, columns=64, std=0.5
        ),
        "visual": EventFrameSpec(
            size=(32, 32), sensor=(34, 34), window=(32, 32), share=0.3333, std=2.0
        ),
    },
}
