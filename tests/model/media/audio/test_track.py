"""Frames of sound become the samples that PyAV reads in them."""

from __future__ import annotations

import numpy as np
import pytest
from av.audio.frame import AudioFrame

from model.media.audio.track import _to_ndarray

FORMATS = ("u8", "s16", "s32", "flt", "dbl", "u8p", "s16p", "s32p", "fltp", "dblp")
TYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
@pytest.mark.parametrize("name", FORMATS)
def test_samples_are_those_of_the_frame(name: str, layout: str) -> None:
    count, channels = 37, {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    planar = name.endswith("p")
    shape = (channels, count) if planar else (1, count * channels)
    random = np.random.default_rng(0).integers(0, 256, (shape[0], shape[1] * 8), np.uint8)
    sent = np.nan_to_num(random.view(TYPES[name.removesuffix("p")])[:, : shape[1]]).copy()
    samples = _to_ndarray(AudioFrame.from_ndarray(sent, name, layout))
    assert samples.dtype == sent.dtype
    np.testing.assert_array_equal(samples, sent if planar else sent.reshape(count, channels).T)


def test_a_format_without_a_type_is_refused() -> None:
    with pytest.raises(ValueError, match="sample format 's64'"):
        _to_ndarray(AudioFrame("s64", "mono", 4))
