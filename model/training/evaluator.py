"""A checkpoint that predicts decoded clips, in batches, as the service does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from model import checkpoint
from model.engine import Engine
from model.engine.inputs import encode_batch
from model.media.reader import read_clip
from model.media.types import Clip
from model.network import Output
from model.preprocess.prepare import prepare
from model.preprocess.prepared import Prepared
from model.training.measures import Accuracy
from model.training.perturbations import Perturbation
from model.training.recipe import task_of
from model.training.task import LabelledClip

BATCH_SIZE = 32


@dataclass(frozen=True)
class DecodedClip:
    """A labelled clip, decoded at some T."""

    truth: LabelledClip
    clip: Clip


class Evaluator:
    """A checkpoint, its task, and the engine that runs it.

    Raises CheckpointError where the checkpoint is damaged, or its task is unknown.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        network, self.card = checkpoint.load(folder)
        self.task = task_of(self.card, folder)
        self.engine = Engine(network, device=device)
        self.engine.fuse(steps=self.card.steps)  # as the service does

    def prepare(self, clip: Clip, steps: int, stream: str | None = None) -> dict[str, Prepared]:
        """Preprocess one stream, or each that the clip has, as the card says."""
        specs = self.card.streams
        if stream is not None:
            specs = {stream: specs[stream]}
        return prepare(specs, clip.sound, clip.pictures, steps)

    def encode(self, prepared: Sequence[dict[str, Prepared]], steps: int) -> dict[str, Tensor]:
        """Encode and stack clips that have the same streams: [T or 1, B, C, H, W] by stream."""
        return encode_batch(prepared, self.card.encoding, steps)

    def run(
        self, prepared: Sequence[dict[str, Prepared]], steps: int, explain: Sequence[str] = ()
    ) -> Output:
        """Run the network on a batch of preprocessed clips that have the same streams."""
        return self.engine.run(self.encode(prepared, steps), steps=steps, explain=explain)

    def predict(
        self,
        clips: Sequence[DecodedClip],
        steps: int,
        perturbation: Perturbation | None = None,
        stream: str | None = None,
    ) -> NDArray[np.int64]:
        """Return the predicted class [n] of each clip, perturbed, with one stream alone or all.

        The perturbation of clip i depends on i alone.
        """
        predictions = []
        for first in range(0, len(clips), BATCH_SIZE):
            batch = []
            for index, decoded in enumerate(clips[first : first + BATCH_SIZE], first):
                clip = decoded.clip
                if perturbation is not None:
                    clip = perturbation(clip, np.random.default_rng([11, index]))
                batch.append(self.prepare(clip, steps, stream))
            predictions.append(self.run(batch, steps).logits.argmax(1).numpy())
        return np.concatenate(predictions)

    def accuracy(
        self,
        clips: Sequence[DecodedClip],
        steps: int,
        perturbation: Perturbation | None = None,
        stream: str | None = None,
    ) -> Accuracy:
        """Return the accuracy of `predict`."""
        return score(self.predict(clips, steps, perturbation, stream), clips)


def score(predictions: NDArray[np.int64], clips: Sequence[DecodedClip]) -> Accuracy:
    """Compare predictions [n] with the labels of their clips."""
    labels = np.asarray([decoded.truth.label for decoded in clips], np.int64)
    return Accuracy(int((predictions == labels).sum()), len(labels))


def decode_clips(
    clips: Iterator[LabelledClip], count: int, evaluator: Evaluator
) -> list[DecodedClip]:
    """Decode clips at the checkpoint's T, under a progress bar."""
    steps = evaluator.card.steps
    tracked = track(clips, "clips", count, transient=True)
    return [DecodedClip(clip, read_clip(clip.data, steps)) for clip in tracked]


def held_out_batches(
    folder: Path, data: Path, count: int, seed: int = 7
) -> Iterator[dict[str, Tensor]]:
    """Yield the inputs [T or 1, B, C, H, W] of the clips that a checkpoint is evaluated on.

    Raises CheckpointError and DataError.
    """
    evaluator = Evaluator(folder, "cpu")
    clips = evaluator.task.load(data).test_clips(count, seed)
    steps = evaluator.card.steps
    prepared = (
        evaluator.prepare(read_clip(clip.data, steps), steps)
        for clip in track(clips, "clips", count, transient=True)
    )
    while batch := list(islice(prepared, BATCH_SIZE)):
        yield evaluator.encode(batch, steps)
