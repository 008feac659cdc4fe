"""Words of no class are none of the checkpoint's labels, and are named by what they are to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.training.out_of_distribution.made_clips import draw_sets
from model.training.speech import voices
from tests.service import checkpoints

CARD = checkpoints.card()


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that are spoken, without a synthesizer."""
    words: list[str] = []

    def say(text: str, *_: object) -> np.ndarray:
        words.append(text)
        return np.ones(800, np.float32)

    monkeypatch.setattr(voices, "available", lambda: True)
    monkeypatch.setattr(voices, "say", say)
    return words


def test_no_label_is_spoken_as_a_word_of_no_class(said: list[str], tmp_path: Path) -> None:
    voices.unseen_words(300)
    voices.other_words(300, tmp_path)
    tested, trained = said[0], said[-1]
    count = said[300:].count(trained)
    said.clear()
    assert len(voices.unseen_words(300, [tested.upper()])) == 300
    assert tested not in said
    assert len(voices.other_words(300, tmp_path, [trained.title(), "drone"])) == 300 - count
    assert voices.unseen_words(300, voices.TEST_WORDS) == ()


@pytest.mark.parametrize(
    ("labels", "name"),
    [(CARD.labels, "words that are no digits"), (("drone", "7"), "other words")],
)
def test_words_are_named_by_what_they_are_to_the_checkpoint(
    labels: tuple[str, ...], name: str
) -> None:
    card = CARD.model_copy(update={"labels": labels})
    assert [each for each, _ in draw_sets(1, card, None, 0)][2] == f"{name}, and blank pages"
