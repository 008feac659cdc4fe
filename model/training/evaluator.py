"""A checkpoint that predicts decoded clips, in batches, as the service does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model import checkpoint
from model.calibration import calibrated
from model.engine import Engine
from model.engine.inputs import encode_batch
from model.media.types import Clip, MediaError
from model.network import Output
from model.preprocess.prepare import prepare
from model.preprocess.prepared import Prepared
from model.training.accuracy import Accuracy
from model.training.checkpoint_task import task_of_card
from model.training.perturbations import Perturbation
from model.training.progress import track
from model.training.task import DataError, LabelledClip, streams_alone

BATCH_SIZE = 32
#: Most bytes of decoded clips that are kept.
MAX_DECODED_BYTES = 2 << 30


@dataclass(frozen=True)
class DecodedClip:
    """A labelled clip, decoded at some T."""

    truth: LabelledClip
    clip: Clip


@dataclass(frozen=True)
class ClipOnDemand:
    """A labelled clip that is decoded for `steps` time steps at each use."""

    truth: LabelledClip
    steps: int

    @property
    def clip(self) -> Clip:
        """Its sound and pictures."""
        return self.truth.decode(self.steps)


#: Predictions of an evaluator.
EvaluatedClip = DecodedClip | ClipOnDemand


class Evaluator:
    """A checkpoint, its task, and the engine that runs it.

    Raises CheckpointError where the checkpoint is damaged, or its task is unknown.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        network, self.card = checkpoint.load(folder)
        self.task = task_of_card(self.card, folder)
        self.engine = Engine(network, device=device)
        self.engine.fuse(steps=self.card.steps)  # as the service does

    def prepare(
        self, clip: Clip, steps: int, stream: str | Collection[str] | None = None
    ) -> dict[str, Prepared]:
        """Preprocess one stream, some, or each that the clip has, as the card says."""
        specs = self.card.streams
        if stream is not None:
            streams = (stream,) if isinstance(stream, str) else stream
            specs = {name: spec for name, spec in specs.items() if name in streams}
        return prepare(specs, clip.sound, clip.pictures, steps, clip.events, clip.series)

    def encode(self, prepared: Sequence[dict[str, Prepared]], steps: int) -> dict[str, Tensor]:
        """Encode and stack clips that have the same streams: [T or 1, B, C, H, W] by stream."""
        return encode_batch(prepared, self.card.encoding, steps)

    def run(
        self, prepared: Sequence[dict[str, Prepared]], steps: int, explain: Sequence[str] = ()
    ) -> Output:
        """Run the network on a batch of preprocessed clips that have the same streams."""
        return self.engine.run(self.encode(prepared, steps), steps=steps, explain=explain)

    def run_each(self, inputs: Mapping[str, Tensor], steps: int) -> dict[str | None, Output]:
        """Run the network on inputs [T or 1, B, C, H, W] of all streams, under None, and on each
        alone that is classified."""
        chosen: dict[str | None, Mapping[str, Tensor]] = {None: inputs}
        chosen |= {name: {name: inputs[name]} for name in streams_alone(self.task)}
        return {alone: self.engine.run(inputs, steps=steps) for alone, inputs in chosen.items()}

    def calibrate(self, output: Output, steps: int) -> Tensor:
        """Return the logits [B, classes] whose softmax the service returns."""
        return calibrated(output, self.card, steps)

    def logits(
        self,
        clips: Sequence[EvaluatedClip],
        steps: int,
        perturbation: Perturbation | None = None,
        stream: str | None = None,
    ) -> NDArray[np.float32]:
        """Return the calibrated logits [n, classes] of clips, perturbed, with one stream or all.

        The perturbation of clip i depends on i alone.
        """
        return self.logits_by_streams(clips, steps, [stream], perturbation)[stream]

    def logits_by_streams(
        self,
        clips: Sequence[EvaluatedClip],
        steps: int,
        alone: Sequence[str | None],
        perturbation: Perturbation | None = None,
    ) -> dict[str | None, NDArray[np.float32]]:
        """Return `logits` with each of these streams alone, or all (None); each clip is perturbed
        and preprocessed once for all of them."""
        needed = alone[0] if len(alone) == 1 else None
        logits: dict[str | None, list[NDArray[np.float32]]] = {stream: [] for stream in alone}
        for first in range(0, len(clips), BATCH_SIZE):
            prepared = []
            for index, decoded in enumerate(clips[first : first + BATCH_SIZE], first):
                clip = decoded.clip
                if perturbation is not None:
                    clip = perturbation(clip, np.random.default_rng([11, index]))
                prepared.append(self.prepare(clip, steps, needed))
            for stream, parts in logits.items():
                batch = prepared if stream is None else [{stream: x[stream]} for x in prepared]
                parts.append(self.calibrate(self.run(batch, steps), steps).numpy())
        return {stream: np.concatenate(parts) for stream, parts in logits.items()}

    def predict(
        self,
        clips: Sequence[EvaluatedClip],
        steps: int,
        perturbation: Perturbation | None = None,
        stream: str | None = None,
    ) -> NDArray[np.int64]:
        """Return the predicted class [n] of each clip, by its `logits`."""
        return np.asarray(self.logits(clips, steps, perturbation, stream).argmax(1), np.int64)

    def predict_with(
        self, clips: Sequence[EvaluatedClip], steps: int, streams: Collection[str]
    ) -> NDArray[np.int64]:
        """Return the predicted class [n] of each clip with these streams of several."""
        predicted = []
        for first in range(0, len(clips), BATCH_SIZE):
            batch = [
                self.prepare(clip.clip, steps, streams)
                for clip in clips[first : first + BATCH_SIZE]
            ]
            predicted.append(self.run(batch, steps).logits.argmax(1).numpy())
        return np.concatenate(predicted)

    def accuracy(
        self,
        clips: Sequence[EvaluatedClip],
        steps: int,
        perturbation: Perturbation | None = None,
        stream: str | None = None,
    ) -> Accuracy:
        """Return the accuracy of `predict`."""
        return score(self.predict(clips, steps, perturbation, stream), clips)


def score(predictions: NDArray[np.int64], clips: Sequence[EvaluatedClip]) -> Accuracy:
    """Compare predictions [n] with the labels of their clips."""
    labels = np.asarray([decoded.truth.label for decoded in clips], np.int64)
    return Accuracy(int((predictions == labels).sum()), len(labels))


def decode_clips(
    clips: Iterator[LabelledClip], count: int, evaluator: Evaluator
) -> list[EvaluatedClip]:
    """Decode clips at the checkpoint's T, under a progress bar.

    Beyond MAX_DECODED_BYTES in memory, clips are decoded again at each use. Raises DataError where
    there is none, or where one cannot be decoded.
    """
    shown = track(clips, "clips", count)
    decoded = decode_within_memory(shown, evaluator.card.steps, evaluator)
    if not decoded:
        raise DataError("no clip is left to measure: training has seen all of them")
    return decoded


def decode_within_memory(
    clips: Iterable[LabelledClip], steps: int, evaluator: Evaluator
) -> list[EvaluatedClip]:
    """Decode clips for `steps` time steps, and keep them decoded up to MAX_DECODED_BYTES.

    Raises DataError with all that cannot be decoded.
    """
    decoded: list[EvaluatedClip] = []
    faults: list[str] = []
    total_bytes = 0
    for truth in clips:
        try:
            clip = decode(truth, steps, evaluator)
        except DataError as exc:
            faults.append(str(exc))
            continue
        total_bytes += _bytes(clip.clip)
        decoded.append(clip if total_bytes <= MAX_DECODED_BYTES else ClipOnDemand(truth, steps))
    if len(faults) == 1:
        raise DataError(faults[0])
    if faults:
        raise DataError("\n".join([f"{len(faults)} of the clips cannot be measured:", *faults]))
    return decoded


def decode(truth: LabelledClip, steps: int, evaluator: Evaluator) -> DecodedClip:
    """Decode a clip. Raises DataError where that fails, or where it lacks a stream of the card."""
    name = truth.name or "a clip"
    try:
        clip = truth.decode(steps)
    except MediaError as exc:
        raise DataError(f"{name}: {exc.detail}") from exc
    kinds = {spec.kind for spec in evaluator.card.streams.values()}
    if "spectrogram" in kinds and clip.sound is None:
        raise DataError(f"{name}: {clip.sound_problem or 'there is no sound in it'}")
    if "frames" in kinds and clip.pictures is None:
        raise DataError(f"{name}: {clip.pictures_problem or 'there is no picture in it'}")
    for stream, spec in evaluator.card.streams.items():
        if spec.kind in ("events", "audio_events") and stream not in clip.events:
            raise DataError(f"{name}: there are no events for {stream} in it")
        if spec.kind == "series" and stream not in clip.series:
            raise DataError(f"{name}: there are no values for {stream} in it")
    return DecodedClip(truth, clip)


def _bytes(clip: Clip) -> int:
    """Return the size of a decoded clip in memory, in bytes."""
    pictures = sum(frame.nbytes for frame in clip.pictures.frames) if clip.pictures else 0
    # An event takes up to four values of int64.
    events = sum(32 * len(recorded.time_us) for recorded in clip.events.values())
    series = sum(values.time_s.nbytes + values.values.nbytes for values in clip.series.values())
    return pictures + events + series + (clip.sound.samples.nbytes if clip.sound else 0)


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
        evaluator.prepare(decode(clip, steps, evaluator).clip, steps)
        for clip in track(clips, "clips", count)
    )
    while batch := list(islice(prepared, BATCH_SIZE)):
        yield evaluator.encode(batch, steps)
