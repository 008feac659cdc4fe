"""Training examples and test clips of ndigits-events."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from model.media.events.types import CameraEvents, ChannelEvents
from model.media.types import Limits
from model.preprocess.prepare import prepare
from model.training.ndigits_events.augmentation import augment_camera, augment_channels
from model.training.ndigits_events.clips import EventClip, labelled_clips
from model.training.ndigits_events.dataset import AUDIO, VISUAL, FilmedWords
from model.training.ndigits_events.folder import Parts
from model.training.ndigits_events.task import NDigitsEvents
from model.training.task import BatchPlan
from service.decoding import events as readers
from service.decoding.readers import ReadOptions


@pytest.mark.parametrize("steps", [1, 2, 16])
@pytest.mark.parametrize("augmented", [True, False])
def test_an_example_depends_on_its_index_and_plan_alone(
    parts: Parts, steps: int, augmented: bool
) -> None:
    plan = BatchPlan(("audio", "visual"), steps)
    first, second = (FilmedWords(parts.training, 3, augmented=augmented) for _ in range(2))
    second.example(4, plan)
    streams, label = first.example(5, plan)
    again, same = second.example(5, plan)
    assert label == same
    assert streams["audio"].shape == (steps, 1, *AUDIO.size)
    assert streams["visual"].shape == (steps, 2, *VISUAL.size)
    for name, tensor in streams.items():
        np.testing.assert_array_equal(tensor, again[name])
        assert tensor.any()
        alone, _ = first.example(5, BatchPlan((name,), steps))
        np.testing.assert_array_equal(alone[name], tensor)


def test_development_examples_are_every_recording_by_turns(parts: Parts) -> None:
    examples = FilmedWords(parts.development, 1, augmented=False)
    labels = [examples.example(i, BatchPlan(("visual",), 1))[1] for i in range(20)]
    assert labels == [*range(10), *range(10)]


def test_augmented_events_stay_in_order_and_on_the_sensor(parts: Parts) -> None:
    events = parts.training.films[2][0].events
    for seed in range(20):
        rng = np.random.default_rng(seed)
        moved = augment_camera(events, (34, 34), 1.0, rng)
        assert 100 < len(moved.x) <= 1.06 * len(events.x)
        assert all(len(each) == len(moved.x) for each in (moved.y, moved.time_us, moved.is_on))
        assert 0 <= min(moved.x.min(), moved.y.min()) <= max(moved.x.max(), moved.y.max()) < 34
        assert all(first <= second for first, second in pairwise(moved.time_us))


def test_without_difficulty_only_the_times_change(parts: Parts) -> None:
    events = parts.training.films[2][0].events
    moved = augment_camera(events, (34, 34), 0.0, np.random.default_rng(0))

    def pixels(of: CameraEvents) -> list[tuple[int, ...]]:
        return sorted(zip(of.x.tolist(), of.y.tolist(), of.is_on.tolist(), strict=True))

    assert pixels(moved) == pixels(events)


def test_augmented_channels_are_those_of_the_spec() -> None:
    events = ChannelEvents(np.arange(36).repeat(20), np.arange(720) * 100)
    for seed in range(20):
        other = augment_channels(events, 36, np.random.default_rng(seed))
        assert 0 <= other.channel.min() <= other.channel.max() < 36
        assert 300 < len(other.channel) <= 720


def test_clips_beyond_the_recordings_repeat_them_with_other_words(parts: Parts) -> None:
    recordings = sum(map(len, parts.test.films))
    clips = list(labelled_clips(parts.test, 2 * recordings, seed=7))
    first, second = clips[:recordings], clips[recordings:]
    assert [(clip.name, clip.label) for clip in first] == [(c.name, c.label) for c in second]
    sounds = [clip.cochlea for clip in clips if isinstance(clip, EventClip)]
    assert len(set(sounds)) == 2 * recordings


def test_clips_are_read_as_the_service_reads_them(parts: Parts) -> None:
    clips = list(labelled_clips(parts.test, 12, seed=7))
    assert [clip.label for clip in clips] == [*range(10), 0, 1]
    assert len({clip.name for clip in clips}) == 12
    specs = NDigitsEvents.specs
    for clip in clips[:3]:
        assert isinstance(clip, EventClip)
        decoded = clip.decode(4)
        prepared = prepare(specs, decoded.sound, decoded.pictures, 4, decoded.events)
        options = ReadOptions(frozenset({"events", "audio_events"}), 4, Limits())
        camera = readers.read_events([clip.data], options)["events"]
        cochlea = readers.read_audio_events([clip.cochlea], options)["audio_events"]
        assert isinstance(camera, readers.CameraSource)
        assert isinstance(cochlea, readers.ChannelSource)
        served = {
            "visual": camera.prepare(specs["visual"], 4),
            "audio": cochlea.prepare(specs["audio"], 4),
        }
        for name, stream in served.items():
            np.testing.assert_array_equal(prepared[name].tensor, stream.tensor)
