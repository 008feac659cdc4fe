"""A clip's sound and pictures are prepared as the specs of its streams say."""

from __future__ import annotations

import numpy as np
import pytest

from model.media.reader import Pictures, Sound
from model.preprocess.frames import prepare_frames
from model.preprocess.prepare import prepare
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import FrameSpec, SpectrogramSpec
from model.preprocess.spectrogram import prepare_spectrogram
from tests.model.media_files import quadrants, tone
from tests.service.motion import MotionSpec

SPECS = PROFILES["avdigits"]
SOUND = Sound(tone(0.5, 8000), 8000)
PICTURES = Pictures((quadrants(), quadrants(20, 30)), (0.0, 1.0))


def test_each_stream_is_prepared_by_its_own_spec() -> None:
    prepared = prepare(SPECS, SOUND, PICTURES, 4)
    audio, visual = SPECS["audio"], SPECS["visual"]
    assert isinstance(audio, SpectrogramSpec)
    assert isinstance(visual, FrameSpec)
    expected = {
        "audio": prepare_spectrogram(SOUND, audio),
        "visual": prepare_frames(PICTURES, visual, 4),
    }
    assert prepared.keys() == expected.keys()
    for name, stream in expected.items():
        np.testing.assert_array_equal(prepared[name].tensor, stream.tensor)


@pytest.mark.parametrize(
    ("sound", "pictures", "streams"),
    [(SOUND, None, {"audio"}), (None, PICTURES, {"visual"}), (None, None, set())],
)
def test_streams_without_a_source_are_omitted(
    sound: Sound | None, pictures: Pictures | None, streams: set[str]
) -> None:
    assert prepare(SPECS, sound, pictures, 4).keys() == streams


def test_a_stream_of_another_kind_is_an_error_that_names_it() -> None:
    specs = {**SPECS, "motion": MotionSpec(sample_rate=50, maximum=5.0, size=(8, 16))}
    with pytest.raises(TypeError, match="'motion' is of the kind 'motion'"):
        prepare(specs, SOUND, PICTURES, 4)
