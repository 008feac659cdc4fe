"""Examples of drones are of their class, depend on their index alone, and vary in training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.preprocess.profiles import PROFILES
from model.training.drones.aac_augmentation import VARIANTS, with_coded
from model.training.drones.dataset import AircraftExamples, draw_views
from model.training.drones.empty_examples import draw_empty_picture, draw_noise
from model.training.drones.folder import KINDS, LABELS, Aircraft, Recording
from model.training.drones.sound import draw_sound
from model.training.task import BatchPlan

BOTH = ("audio", "visual")


@pytest.fixture(scope="module")
def training(parts: tuple[Aircraft, Aircraft]) -> Aircraft:
    return parts[0]


def of_class(aircraft: Aircraft, label: int) -> Aircraft:
    """The pictures and recordings of a class alone."""
    return Aircraft(
        tuple(clip for clip in aircraft.clips if KINDS[clip[0].kind] == label),
        tuple(each for each in aircraft.recordings if KINDS[each.kind] == label),
    )


def test_the_shapes_are_those_of_the_specs_and_tokens_are_equal(training: Aircraft) -> None:
    specs = PROFILES["drones"]
    streams, _ = AircraftExamples(training, 0).example(0, BatchPlan(BOTH, 2))
    assert streams["audio"].shape == (1, 1, *specs["audio"].size)
    assert streams["visual"].shape == (2, 1, *specs["visual"].size)
    tokens = {(spec.size[0] // 16) * (spec.size[1] // 16) for spec in specs.values()}
    assert len(tokens) == 1


@pytest.mark.parametrize("augmented", [True, False])
def test_an_example_depends_on_seed_and_index_alone(training: Aircraft, augmented: bool) -> None:
    plan = BatchPlan(BOTH, 2)
    first = AircraftExamples(training, 3, augmented)
    again = AircraftExamples(training, 3, augmented)
    again.example(4, plan)
    one, two = first.example(5, plan), again.example(5, plan)
    assert one[1] == two[1]
    for name in BOTH:
        np.testing.assert_array_equal(one[0][name], two[0][name])
        alone, _ = first.example(5, BatchPlan((name,), 2))
        np.testing.assert_array_equal(alone[name], one[0][name])
    other = AircraftExamples(training, 4, augmented).example(5, plan)[0]
    assert not np.array_equal(other["audio"], one[0]["audio"])


def test_an_example_is_made_of_its_own_class(training: Aircraft) -> None:
    # Each class alone: an example of another one cannot be drawn from it.
    for label in range(len(LABELS)):
        examples = AircraftExamples(of_class(training, label), 0, augmented=False)
        for index in range(6):
            if index % 3 == label:
                assert examples.example(index, BatchPlan(BOTH, 1))[1] == label
            else:
                with pytest.raises((ZeroDivisionError, IndexError)):
                    examples.example(index, BatchPlan(BOTH, 1))


def test_all_classes_and_clips_of_origin_take_turns(parts: tuple[Aircraft, Aircraft]) -> None:
    examples = AircraftExamples(parts[0], 1, augmented=False)
    labels = [examples.example(i, BatchPlan(("audio",), 1))[1] for i in range(9)]
    assert labels == [0, 1, 2] * 3
    sounds = {examples.example(3 * i, BatchPlan(("audio",), 1))[0]["audio"].tobytes()
              for i in range(4)}  # fmt: skip
    assert len(sounds) == 4


def test_difficulty_0_shows_recordings_as_they_are(training: Aircraft) -> None:
    drones = of_class(training, 0).recordings
    rng = np.random.default_rng(0)
    whole = replace(drones[0], samples=drones[0].samples[: 3 * 16_000])
    np.testing.assert_allclose(draw_sound([whole], (), rng, 0.0), whole.samples, atol=1e-5)
    changed = draw_sound([whole], [whole], rng, 1.0)
    length = min(len(changed), len(whole.samples))
    assert not np.allclose(changed[:length], whole.samples[:length], atol=1e-2)


def test_views_of_a_clip_keep_their_order(training: Aircraft) -> None:
    (views, *_) = (clip for clip in training.clips if len(clip) > 1)
    for seed in range(20):
        drawn = draw_views(views, 4, np.random.default_rng(seed))
        assert len(drawn) in (1, 4)
        at = [next(i for i, view in enumerate(views) if view is each) for each in drawn]
        assert at == sorted(at)


def test_nothing_is_drawn_as_a_page_or_noise() -> None:
    pages = [draw_empty_picture(np.random.default_rng(seed)) for seed in range(20)]
    assert {page.shape for page in pages} == {(96, 96, 3)}
    assert min(page.std(0).mean() for page in pages) < 10
    assert max(page.std(0).mean() for page in pages) > 30
    sounds = [draw_noise(np.random.default_rng(seed)) for seed in range(20)]
    assert any((samples[:10] == 0).all() for samples in sounds)
    assert all(samples.std() > 0.01 for samples in sounds)
    # Some swell and fade, others do not: levels of tenths of a second, in dB.
    levels = [20 * np.log10(x[-24_000:].reshape(15, -1).std(1)) for x in sounds]
    ranges = [each.max() - each.min() for each in levels]
    assert min(ranges) < 2
    assert max(ranges) > 6


def test_backgrounds_are_layered_more_often_than_other_sounds_are_doubled() -> None:
    """Tones of two recordings: two of them, which may be one twice, are in half of the backgrounds
    and in two fifths of others; a third of all have a background added."""
    at = np.arange(48_000) / 16_000
    tones = [
        Recording(np.sin(2 * np.pi * hertz * at).astype(np.float32), "background", str(hertz))
        for hertz in (500, 3000)
    ]

    def share(backgrounds: list[Recording]) -> float:
        both = 0
        for seed in range(150):
            samples = draw_sound(tones, backgrounds, np.random.default_rng(seed), 1.0)
            power = np.abs(np.fft.rfft(samples)) ** 2
            half = len(power) // 5  # 1600 Hz
            low, high = power[:half].sum(), power[half:].sum()
            both += min(low, high) > 0.02 * max(low, high)
        return both / 150

    silence = [replace(tones[0], samples=np.zeros(48_000, np.float32))]
    assert share(tones) > share(silence)


def test_coded_recordings_are_the_same_sound_with_less_at_the_top() -> None:
    """As long as before, the tone as loud, and less of the faint noise between 7 and 8 kHz."""
    at = np.arange(32_000) / 16_000
    rng = np.random.default_rng(0)
    samples = 0.3 * np.sin(2 * np.pi * 440 * at) + 1e-4 * rng.standard_normal(len(at))
    recording = Recording(samples.astype(np.float32), "background", "a")
    plain, *coded = with_coded([recording])
    assert plain is recording
    assert len(coded) == len(VARIANTS)
    for each in coded:
        assert (each.kind, each.group) == ("background", "a")
        assert len(each.samples) == len(samples)
        window = np.hanning(24_000)
        power, before = (
            np.abs(np.fft.rfft(x[4000:28_000] * window)) ** 2 for x in (each.samples, samples)
        )
        tone, top = slice(600, 720), slice(10_500, None)  # in units of 2/3 Hz
        assert power[tone].sum() == pytest.approx(before[tone].sum(), rel=0.05)
        assert power[top].sum() < 0.95 * before[top].sum()
