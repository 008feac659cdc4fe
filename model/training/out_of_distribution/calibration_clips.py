"""OOD clips for `scmrl calibrate`: drawn, and run through the network as known ones are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from model.arrays import Float32Array
from model.checkpoint import Card
from model.engine.outputs import concatenate
from model.network import Output
from model.preprocess.specs import ChannelEventSpec, SpectrogramSpec
from model.training.batches import collate
from model.training.evaluator import Evaluator
from model.training.out_of_distribution.features import ClipOutputs
from model.training.out_of_distribution.outlier_exposure import (
    NO_CLASS,
    OutlierExposure,
    can_draw_outliers,
)
from model.training.progress import track
from model.training.speech import voices
from model.training.task import BatchPlan, ClipExamples, Examples

#: Labels, in lower case, of a class for everything that is none of the others: with such a class,
#: no clip is out of distribution.
OTHER = frozenset({"other", "none", "nothing", "background", "noise", "unknown"})
#: Most takes of words among the sounds, and the seed of the examples.
_WORDS, _SEED = 1000, 5
#: Examples per run of the network.
_BATCH = 16


@dataclass(frozen=True)
class OutlierExamples:
    """OOD examples. With several streams, every other example is out of distribution in all of
    them; in the rest, one stream in turn has the content of a known example."""

    known: Examples
    outliers: Examples
    streams: tuple[str, ...]

    def known_stream(self, index: int) -> str | None:
        """Return the stream with known content, or None."""
        if index % 2 == 0 or len(self.streams) == 1:
            return None
        return self.streams[index // 2 % len(self.streams)]

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, Float32Array], int]:
        """Return tensors [T or 1, C, H, W] of the plan's streams, and NO_CLASS."""
        streams, _ = self.outliers.example(index, plan)
        name = self.known_stream(index)
        if name is not None:
            streams[name] = self.known.example(index, plan)[0][name]
        return streams, NO_CLASS


def can_draw_outlier_clips(card: Card) -> bool:
    """Return whether OOD clips can be drawn for its streams, and no label of the card is OTHER."""
    is_closed = OTHER.isdisjoint(label.lower() for label in card.labels)
    return is_closed and can_draw_outliers(list(card.streams.values()))


def draw_outlier_clips(
    evaluator: Evaluator, known: Examples, count: int, cache: Path
) -> ClipOutputs:
    """Draw `count` OOD clips and run the network on them.

    Some have one stream of the examples `known`. Spoken words are stored in `cache`; none that is a
    label of the card is spoken.
    """
    card = evaluator.card
    streams = tuple(card.streams)
    is_heard = any(isinstance(x, SpectrogramSpec | ChannelEventSpec) for x in card.streams.values())
    count_words = min(_WORDS, 2 * count) if is_heard else 0
    words = voices.other_words(count_words, cache, card.labels)
    outliers = OutlierExposure(known, dict(card.streams), share=1.0, seed=_SEED, words=words)
    examples = OutlierExamples(known, outliers, streams)
    clips = run_examples(evaluator, examples, count, "of no class")
    known_streams = [examples.known_stream(index) for index in range(count)]
    return ClipOutputs(
        clips.outputs,
        clips.labels,
        is_outlier={name: np.array([each != name for each in known_streams]) for name in streams},
    )


def run_known_clips(
    evaluator: Evaluator, clips: ClipOutputs, names: Sequence[str], more: Examples, count: int
) -> ClipOutputs:
    """Return development clips of these names, and the outputs of `count` more examples.

    Where those are of clips with names (ClipExamples), the result says of which clip each is, and
    that training left the development clips out.
    """
    known = clips.joined(run_examples(evaluator, more, count))
    if not isinstance(more, ClipExamples):
        return known
    of_all = [*names, *(more.clip_name(index) for index in range(count))]
    numbers = np.unique(of_all, return_inverse=True)[1]
    return replace(known, clips=numbers, held_out=np.isin(of_all, names))


def run_examples(
    evaluator: Evaluator, examples: Examples, count: int, title: str = "known"
) -> ClipOutputs:
    """Return the outputs at the card's T of the first `count` examples."""
    steps, encoding = evaluator.card.steps, evaluator.card.encoding
    plan = BatchPlan(tuple(evaluator.card.streams), steps)
    outputs: dict[str | None, list[Output]] = {}
    labels: list[torch.Tensor] = []
    for first in track(range(0, count, _BATCH), title):
        indices = range(first, min(first + _BATCH, count))
        inputs, of_batch = collate(examples, indices, plan, encoding)
        labels.append(of_batch)
        for alone, output in evaluator.run_each(inputs, steps).items():
            outputs.setdefault(alone, []).append(output)
    joined = {alone: concatenate(batches) for alone, batches in outputs.items()}
    return ClipOutputs(joined, torch.cat(labels).numpy())
