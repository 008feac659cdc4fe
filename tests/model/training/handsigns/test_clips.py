"""Clips are mp4 files that are read back as they were made, plain and busy by turns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.media.reader import read_clip
from model.training.handsigns.clips import BUSY, PLAIN, labelled_clip, labelled_clips
from model.training.handsigns.folder import ShownDigits

pytestmark = pytest.mark.slow


def test_labelled_clips_are_read_back_as_they_were_made(
    parts: tuple[ShownDigits, ShownDigits],
) -> None:
    clips = list(labelled_clips(parts[1], 12, seed=2))
    assert [clip.label for clip in clips] == [*range(10), 0, 1]
    assert [clip.part for clip in clips] == [PLAIN] * 10 + [BUSY] * 2
    for clip in clips:
        read = read_clip(clip.data, 3)
        assert read.sound is not None
        assert read.pictures is not None
        assert len(read.pictures.frames) == 3
        assert read.pictures.frames[0].shape[:2] == clip.size
        left, top, right, bottom = clip.box
        assert -1 <= left < right <= clip.size[1] + 1
        assert -1 <= top < bottom <= clip.size[0] + 1
        samples = read.sound.samples.mean(0)
        rate = read.sound.sample_rate
        word = samples[round(clip.begin * rate) : round(clip.end * rate)]
        assert np.mean(word**2) > np.mean(samples**2)


def test_the_hand_is_in_its_box(parts: tuple[ShownDigits, ShownDigits]) -> None:
    for seed in range(4):
        clip = labelled_clip(parts[1], 5, PLAIN, np.random.default_rng(seed))
        frame = read_clip(clip.data, 1).pictures.frames[0].astype(int)
        left, top, right, bottom = (round(side) for side in clip.box)
        red = frame[:, :, 0] - frame[:, :, 2] > 40
        inside = red[top:bottom, left:right].copy()
        red[top:, left:right] = False  # the arm may extend below the hand
        assert inside.mean() > 0.2
        assert red.mean() < 0.1 * inside.mean()


def test_a_clip_is_made_of_its_own_digit(parts: tuple[ShownDigits, ShownDigits]) -> None:
    digits = parts[1]
    for kind in ("hands", "words"):
        of_digits = enumerate(getattr(digits, kind))
        only_fours = tuple(of if digit == 4 else of[:0] for digit, of in of_digits)
        only = replace(digits, **{kind: only_fours})
        assert labelled_clip(only, 4, BUSY, np.random.default_rng(0)).label == 4
        with pytest.raises(ValueError, match="high"):
            labelled_clip(only, 5, BUSY, np.random.default_rng(0))
