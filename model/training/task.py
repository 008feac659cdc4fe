"""The protocol of a task, which `scmrl train` and `scmrl evaluate` use.

The command line imports the tasks to list their options, so that a module that defines one must
not import torch, OpenCV or a decoder before `Task.load` is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from model.checkpoint import Source
from model.preprocess.specs import Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class DataError(ValueError):
    """A data folder does not have the data of its task. The message names the files."""


@dataclass(frozen=True)
class BatchPlan:
    """What one training batch consists of.

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
    None where it is unknown. The object is heard from `begin` to `end` in seconds.
    """

    data: bytes
    label: int
    box: tuple[float, float, float, float] | None = None
    size: tuple[int, int] | None = None
    begin: float | None = None
    end: float | None = None


class Examples(Protocol):
    """An endless sequence of preprocessed examples."""

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, NDArray[np.float32]], int]:
        """Return example `index`: a tensor [T or 1, C, H, W] for each stream of the plan, and the
        label.

        The index and the plan alone decide the example.
        """


class Data(Protocol):
    """The data of a task, loaded, and split into three parts that share nothing."""

    @property
    def sha256(self) -> str:
        """Digest of the training data, by which a resumed run checks that it is the same."""

    def training_examples(self, seed: int, cache: Path) -> Examples:
        """Return augmented examples to train on. Files worth keeping may be written to `cache`."""

    def development_examples(self) -> Examples:
        """Return examples without augmentation, by which the best epoch is chosen."""

    def test_clips(self, count: int, seed: int) -> Iterator[LabelledClip]:
        """Yield `count` clips that `scmrl evaluate` measures a checkpoint on."""


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
