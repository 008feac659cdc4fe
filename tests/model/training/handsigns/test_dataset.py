"""Examples match their descriptions, and depend on their index and plan alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.training.backgrounds import DEVELOPMENT, TRAINING
from model.training.batches import Batches
from model.training.handsigns.dataset import VISUAL, Scenes
from model.training.handsigns.folder import ShownDigits
from model.training.speech import spectrogram
from model.training.task import BatchPlan

pytestmark = pytest.mark.slow

BOTH = ("audio", "visual")


def scenes(parts: tuple[ShownDigits, ShownDigits], *, augmented: bool = True) -> Scenes:
    if augmented:
        return Scenes(parts[0], seed=5, kinds=TRAINING, backgrounds=10)
    return Scenes(parts[1], seed=1, kinds=DEVELOPMENT, backgrounds=10, augmented=False)


@pytest.mark.parametrize("augmented", [True, False])
def test_a_batch_has_what_its_plan_says_and_is_repeatable(
    parts: tuple[ShownDigits, ShownDigits], augmented: bool
) -> None:
    plans = [BatchPlan(BOTH, 3), BatchPlan(("visual",), 2, 0.0), BatchPlan(("audio",), 4)]
    batches = Batches(scenes(parts, augmented=augmented), 6, lambda i: plans[i])
    for index, plan in enumerate(plans):
        inputs, labels = batches[index]
        assert tuple(inputs) == plan.streams
        assert len(labels) == 6
        if "visual" in inputs:
            assert inputs["visual"].shape == (plan.steps, 6, 3, *VISUAL.size)
            assert inputs["visual"].abs().max() < 4
        again, _ = batches[index]
        assert all(inputs[name].equal(again[name]) for name in inputs)


def test_a_stream_does_not_depend_on_the_other(parts: tuple[ShownDigits, ShownDigits]) -> None:
    examples = scenes(parts)
    for index in range(5):
        both, label = examples.example(index, BatchPlan(BOTH, 2))
        for name in BOTH:
            alone, same = examples.example(index, BatchPlan((name,), 2))
            assert label == same
            assert np.array_equal(alone[name], both[name])


@pytest.mark.parametrize("kind", ["hands", "words"])
def test_a_clip_is_made_of_its_own_digit(parts: tuple[ShownDigits, ShownDigits], kind: str) -> None:
    """Where all other digits are empty, only clips of this one can be made."""
    examples = scenes(parts)
    others = getattr(examples.digits, kind)
    only_fours = tuple(of if digit == 4 else of[:0] for digit, of in enumerate(others))
    examples = replace(examples, digits=replace(examples.digits, **{kind: only_fours}))
    stream = "visual" if kind == "hands" else "audio"
    for index in range(30):
        label = int(np.random.default_rng([examples.seed, index]).integers(10))
        if label == 4:
            assert examples.example(index, BatchPlan((stream,), 1))[1] == 4
        else:
            with pytest.raises(ValueError, match="high"):
                examples.example(index, BatchPlan((stream,), 1))


def test_colour_is_kept(parts: tuple[ShownDigits, ShownDigits]) -> None:
    """A held-out photograph as it is: the middle of the arm, at the lower edge, is skin."""
    examples = scenes(parts, augmented=False)
    redder = []
    for index in range(0, 20, 2):
        frame = examples.example(index, BatchPlan(("visual",), 1))[0]["visual"][0]
        values = 0.5 + 0.25 * frame
        skin = (values[0] - values[2] > 0.15) & (values[0] > 0.5)
        redder.append(skin.mean())
    assert min(redder) > 0.01


def test_held_out_examples_are_plain_and_busy_by_turns(
    parts: tuple[ShownDigits, ShownDigits],
) -> None:
    examples = scenes(parts, augmented=False)
    busy = replace(examples, kinds=("mosaic",), backgrounds=1)
    other = replace(examples, kinds=("waves",), backgrounds=1)
    for index in range(8):
        plan = BatchPlan(("visual",), 1)
        first, second = (x.example(index, plan)[0]["visual"] for x in (busy, other))
        assert np.array_equal(first, second) == (index % 2 == 0)


def test_difficulty_adds_noise_and_augments_the_sound_in_training_alone(
    parts: tuple[ShownDigits, ShownDigits], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    augment = spectrogram.augment_spectrogram
    monkeypatch.setattr(
        spectrogram, "augment_spectrogram", lambda x, rng: (calls.append(1), augment(x, rng))[1]
    )
    scenes(parts, augmented=False).example(0, BatchPlan(BOTH))
    assert not calls
    examples = scenes(parts)
    examples.example(0, BatchPlan(BOTH))
    assert calls

    def moving(difficulty: float) -> int:
        """Count the examples whose time steps differ."""
        plans = BatchPlan(("visual",), 2, difficulty)
        tensors = [examples.example(index, plans)[0]["visual"] for index in range(40)]
        return sum(not np.array_equal(x[0], x[1]) for x in tensors)

    assert moving(1.0) > 12
    assert moving(0.0) < 20


def test_backgrounds_become_busy_with_difficulty(
    parts: tuple[ShownDigits, ShownDigits],
) -> None:
    """An example that two kinds of backgrounds do not change is plain."""
    examples = scenes(parts)
    first, second = (replace(examples, kinds=(kind,), backgrounds=1) for kind in TRAINING[:2])

    def plain(difficulty: float) -> float:
        plan = BatchPlan(("visual",), 1, difficulty)
        pairs = [[x.example(i, plan)[0]["visual"] for x in (first, second)] for i in range(60)]
        return float(np.mean([np.array_equal(*pair) for pair in pairs]))

    assert plain(0.0) == 1
    assert plain(1.0) < 0.5
