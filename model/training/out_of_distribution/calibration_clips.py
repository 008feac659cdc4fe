"""Clips of no class for `scmrl calibrate`: run through the network, beside known ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from model.checkpoint import Card
from model.engine.outputs import concatenate
from model.network import Output
from model.training.batches import collate
from model.training.evaluator import Evaluator
from model.training.out_of_distribution.features import Clips
from model.training.out_of_distribution.outlier_exposure import NO_CLASS, WithNoClass, can_draw
from model.training.speech import voices
from model.training.task import BatchPlan, Data, Examples

#: Labels of a class that takes whatever is none of the others, in lower case: nothing is of no
#: class then.
OTHER = frozenset({"other", "none", "nothing", "background", "noise", "unknown"})
#: Most takes of words among the sounds, and the seed of the examples.
_WORDS, _SEED = 1000, 5
#: Examples per run of the network.
_BATCH = 16

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Others:
    """Examples of no class. Where there are several streams, every other example is of none in all
    of them; in the rest one stream by turns has the content of a known example."""

    known: Examples
    foreign: Examples
    streams: tuple[str, ...]

    def real(self, index: int) -> str | None:
        """Return the stream with known content, if any."""
        if index % 2 == 0 or len(self.streams) == 1:
            return None
        return self.streams[index // 2 % len(self.streams)]

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, Floats], int]:
        """Return tensors [T or 1, C, H, W] of the plan's streams, and NO_CLASS."""
        streams, _ = self.foreign.example(index, plan)
        real = self.real(index)
        if real is not None:
            streams[real] = self.known.example(index, plan)[0][real]
        return streams, NO_CLASS


def can_draw_no_class(card: Card) -> bool:
    """Return whether clips of no class can be drawn for a card, and none of its labels is OTHER."""
    is_closed = OTHER.isdisjoint(label.lower() for label in card.labels)
    return is_closed and can_draw(list(card.streams.values()))


def draw_others(evaluator: Evaluator, data: Data, count: int, cache: Path) -> Clips:
    """Draw `count` clips of no class and run the network on them. Words are stored in `cache`."""
    card = evaluator.card
    known, streams = data.development_examples(), tuple(card.streams)
    words = voices.other_words(min(_WORDS, 2 * count), cache)
    foreign = WithNoClass(known, dict(card.streams), share=1.0, seed=_SEED, words=words)
    others = Others(known, foreign, streams)
    clips = run_examples(evaluator, others, count, "of no class")
    real = [others.real(index) for index in range(count)]
    return Clips(
        clips.outputs,
        clips.labels,
        foreign={name: np.array([each != name for each in real]) for name in streams},
    )


def run_examples(
    evaluator: Evaluator, examples: Examples, count: int, title: str = "known"
) -> Clips:
    """Return the outputs at the card's T of the first `count` examples."""
    steps, encoding = evaluator.card.steps, evaluator.card.encoding
    plan = BatchPlan(tuple(evaluator.card.streams), steps)
    outputs: dict[str | None, list[Output]] = {}
    labels: list[torch.Tensor] = []
    for first in track(range(0, count, _BATCH), title, transient=True):
        indices = range(first, min(first + _BATCH, count))
        inputs, of_batch = collate(examples, indices, plan, encoding)
        labels.append(of_batch)
        for alone, output in evaluator.run_each(inputs, steps).items():
            outputs.setdefault(alone, []).append(output)
    joined = {alone: concatenate(each) for alone, each in outputs.items()}
    return Clips(joined, torch.cat(labels).numpy())
