"""The protocol of a task, which `scmrl train` and `scmrl evaluate` use.

The command line imports the tasks to list their options, so that a module that defines one must
not import torch, OpenCV or a decoder before `Task.load` is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from model.checkpoint import CARD, Card, CheckpointError, Source
from model.preprocess.specs import Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model.media.types import Clip


#: The note of a card that says where the data was.
DATA_NOTE = "data"


class DataError(ValueError):
    """A data folder does not have the data of its task. The message names the files."""


@dataclass(frozen=True)
class BatchPlan:
    """The content of one training batch.

    `streams`: those that its examples have. `steps`: time steps T. `difficulty`: of the
    augmentation, 0 (easiest) to 1.
    """

    streams: tuple[str, ...]
    steps: int = 4
    difficulty: float = 1.0


@dataclass(frozen=True)
class LabelledClip:
    """An encoded clip and its ground truth.

    `data` is a media file, as a client would upload it. `label` is the index of the class. `box`
    (left, top, right, bottom) encloses the object in pixels of a frame of `size` (height, width);
    None where it is unknown. The object is heard from `begin` to `end` in seconds. `name` is the
    file's, for messages. `part` names a part of the test set that is also measured by itself,
    such as "busy background"; empty where there are none.
    """

    data: bytes
    label: int
    box: tuple[float, float, float, float] | None = None
    size: tuple[int, int] | None = None
    begin: float | None = None
    end: float | None = None
    name: str = ""
    part: str = ""

    def decode(self, steps: int) -> Clip:
        """Decode the sound and `steps` pictures. Raises MediaError."""
        from model.media.reader import read_clip

        return read_clip(self.data, steps)


class Examples(Protocol):
    """An endless sequence of preprocessed examples."""

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, NDArray[np.float32]], int]:
        """Return example `index`: a tensor [T or 1, C, H, W] for each stream of the plan, and the
        label.

        The index and the plan alone decide the example.
        """


@runtime_checkable
class ClipExamples(Examples, Protocol):
    """Examples that are made of clips, several of each."""

    def clip_name(self, index: int) -> str:
        """Return the name of the clip that example `index` is made of: `LabelledClip.name` for a
        development clip."""


class Data(Protocol):
    """The data of a task, loaded, and split into three parts that share nothing."""

    @property
    def sha256(self) -> str:
        """Digest of the training data, by which a resumed run checks that it is the same."""

    @property
    def class_weights(self) -> Sequence[float] | None:
        """Weight of each class in the loss; None where all weigh the same."""

    def training_examples(self, seed: int, cache: Path) -> Examples:
        """Return augmented examples to train on. Files worth keeping may be written to `cache`."""

    def development_examples(self) -> Examples:
        """Return examples without augmentation, by which the best epoch is chosen."""

    def development_clips(self, count: int) -> Iterator[LabelledClip]:
        """Yield at most `count` clips of the same part as `development_examples`, as they would be
        uploaded: a checkpoint is calibrated on them."""

    def known_examples(self, cache: Path) -> Examples | None:
        """Return examples of all that a checkpoint is to know, beside the development clips: more
        speakers, hands and so on, or changed ones of the same clips (ClipExamples). None where
        there are no others. Files may be written to `cache`.
        """

    def test_clips(self, count: int, seed: int) -> Iterator[LabelledClip]:
        """Yield `count` clips that `scmrl evaluate` measures a checkpoint on; fewer where there
        are no more."""

    def record(self, folder: Path) -> None:
        """Write beside a checkpoint what an evaluation has to know of the data, if anything."""


class Task(Protocol):
    """A task that a network is trained on: its data, streams, labels and card.

    An implementation is a frozen dataclass. Its fields are the task's own options, made with
    `model.training.options.option`; they become flags of `scmrl train NAME`.
    """

    @property
    def name(self) -> str:
        """The name on the command line and in the card."""

    @property
    def version(self) -> str:
        """The version that the card of a new checkpoint has."""

    @property
    def description(self) -> str:
        """One sentence for the card and for `scmrl train --help`."""

    @property
    def data_help(self) -> str:
        """What a data folder holds, for `scmrl train --help`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in the order of the logits."""

    @property
    def specs(self) -> Mapping[str, Spec]:
        """Preprocessing of each stream, by the stream's name."""

    @property
    def titles(self) -> Mapping[str, str]:
        """What each stream is called in reports, such as "sound" for `audio`."""

    @property
    def missing_streams(self) -> bool:
        """Whether clips that lack a stream are to be classified, and are measured."""

    @property
    def box_stream(self) -> str | None:
        """The stream whose attention maps are compared with `LabelledClip.box`; None for none."""

    @property
    def test_set(self) -> str:
        """Description of `Data.test_clips`, for the conditions of a measurement."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Defaults of TrainOptions that differ for this task, by field."""

    @property
    def defaults_by_data(self) -> Mapping[str, str]:
        """Fields of TrainOptions whose default the data decides, and how, for the help."""

    @property
    def best_folder(self) -> str:
        """The best checkpoint's folder in that of a run; "." for the run's own."""

    @property
    def transfers(self) -> bool:
        """Whether weights of other labels, streams and sizes may be started from."""

    def for_data(self, folder: Path) -> Self:
        """Return the task with what the data decides: labels, streams, defaults. Raises
        DataError."""

    def for_checkpoint(self, card: Card, folder: Path) -> Self:
        """Return the task as the card in this folder has it. Raises CheckpointError, naming the
        card's field, where it is of another task."""

    def learning_settings(self) -> Mapping[str, object]:
        """Return those of the task's own options that affect the weights, by their names."""

    def card_notes(self) -> Mapping[str, str]:
        """Return what the card says about the data beyond `sources`."""

    def sources(self) -> tuple[Source, ...]:
        """Return the data sets that are trained on, with their licences."""

    def load(self, folder: Path) -> Data:
        """Load and check a data folder. Raises DataError, naming the invalid files."""


def streams_alone(task: Task) -> tuple[str, ...]:
    """Return the streams with which alone a network is measured, besides all of them together."""
    return tuple(task.specs) if task.missing_streams and len(task.specs) > 1 else ()


def check_task(task: Task, card: Card, folder: Path) -> None:
    """Raise CheckpointError, naming the field of the card, where it is not of this task."""
    if card.labels != task.labels:
        raise of_another_task(card, folder, [task])
    own, expected = kinds(card.streams), kinds(task.specs)
    if own != expected:
        problem = f"{own} are not the streams of {task.name}: {expected}"
        raise CheckpointError(folder / CARD, "streams", problem)


def kinds(specs: Mapping[str, Spec]) -> dict[str, str]:
    """Return the kind of preprocessing of each stream, by its name."""
    return {name: spec.kind for name, spec in specs.items()}


def of_another_task(card: Card, folder: Path, tasks: Sequence[Task]) -> CheckpointError:
    labels = ", ".join(card.labels[:10]) + (", …" if len(card.labels) > 10 else "")
    accepted = "; ".join(f"{task.name} has {', '.join(task.labels)}" for task in tasks)
    problem = f"{labels} are not those of a known task; {accepted}"
    return CheckpointError(folder / CARD, "labels", problem)
