"""The task drones: drones, helicopters and other things in the open air."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from model.checkpoint import Card, Source
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import Spec
from model.training.options import check_ranges, option
from model.training.task import LabelledClip, check_task

if TYPE_CHECKING:
    from model.training.drones.dataset import AircraftExamples
    from model.training.drones.folder import Aircraft, Movie

#: The note of a card that says which fold was left out.
_FOLD_NOTE = "fold"

#: Seed of the clips that a checkpoint is calibrated on.
_DEVELOPMENT_SEED = 11


@dataclass(frozen=True)
class Drones:
    """Drones, helicopters, and what else there is: airplanes, birds, empty sky."""

    name: ClassVar = "drones"
    version: ClassVar = "1.0.0"
    description: ClassVar = (
        "A drone, a helicopter or something else (airplane, bird, nothing) in the open air, by its "
        "sound and a crop of the video that follows it."
    )
    data_help: ClassVar = "Folder of labels.csv (file, kind, class, clip, split, site, box_*)."
    labels: ClassVar = ("drone", "helicopter", "other")
    specs: ClassVar[Mapping[str, Spec]] = PROFILES["drones"]
    titles: ClassVar[Mapping[str, str]] = {"audio": "sound", "visual": "picture"}
    missing_streams: ClassVar = True
    box_stream: ClassVar = "visual"
    defaults: ClassVar[Mapping[str, Any]] = {
        "modality_dropout": {"all": 0.4, "visual": 0.3, "audio": 0.3},
        "embed_dim": 64,
        "steps": 2,
        "development_clips": 450,
    }
    defaults_by_data: ClassVar[Mapping[str, str]] = {}
    best_folder: ClassVar = "best"
    transfers: ClassVar = True

    fold: int = option(
        0, "Part of the training split that is left out and tested on; 0: the test split is.",
        between=(0, 4),
    )  # fmt: skip

    other: float = option(0.4, "Share of the class other in training.", between=(0.01, 0.99))
    empty: float = option(
        0.2, "Share of empty backgrounds among the pictures of other in training.", between=(0, 1)
    )

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)

    @property
    def test_set(self) -> str:
        part = f"fold {self.fold} of the training split" if self.fold else "the test split"
        return f"H.264 + AAC clips of {part}, sound and picture of one class recorded apart"

    def for_data(self, folder: Path) -> Drones:
        """Return the task itself: the data decides nothing of it."""
        return self

    def for_checkpoint(self, card: Card, folder: Path) -> Drones:
        """Return the task with the fold that was left out. Raises CheckpointError where the card
        is of another."""
        check_task(self, card, folder)
        noted = card.training.notes.get(_FOLD_NOTE, "0") if card.training else "0"
        return replace(self, fold=int(noted) if noted in "01234" else 0)

    def learning_settings(self) -> Mapping[str, object]:
        return {"fold": self.fold, "other": self.other, "empty": self.empty}

    def card_notes(self) -> Mapping[str, str]:
        left_out = f"fold {self.fold} of the training split" if self.fold else "the test split"
        return {
            _FOLD_NOTE: str(self.fold),
            "held_out": f"{left_out}: clips and recordings of origin that training never saw",
            "nothing": "blank pages, an empty sky and noise are of the class other",
        }

    def sources(self) -> tuple[Source, ...]:
        return (
            Source(
                name="Drone-detection-dataset",
                what="windows of visible-light videos and recordings of drones, helicopters, "
                "airplanes, birds and the background (F. Svanstroem, C. Englund, F. "
                "Alonso-Fernandez: A Dataset for Multi-Sensor Drone Detection, Data in Brief 2021, "
                "doi 10.5281/zenodo.5500576; without the videos credited to YouTube)",
                licence="CC0 1.0",
            ),
        )

    def load(self, folder: Path) -> DronesData:
        """Load the data folder. Raises DataError, naming the files at fault."""
        from model.training.drones.folder import leave_out, load, load_movies

        training, test = load(folder)
        movies: tuple[Movie, ...] = ()
        if self.fold:
            training, test = leave_out(training, self.fold)
        else:
            movies = load_movies(folder)
        return DronesData(training, test, movies, self.other, self.empty)


@dataclass(frozen=True)
class DronesData:
    """The training data, and the held-out data with its movies."""

    training: Aircraft
    held_out: Aircraft
    movies: tuple[Movie, ...]
    other: float
    empty: float
    class_weights: ClassVar = None

    @property
    def sha256(self) -> str:
        """Digest of the pictures and recordings to train on."""
        return self.training.sha256

    def training_examples(self, seed: int, cache: Path) -> AircraftExamples:
        """Return augmented examples."""
        from model.training.drones.dataset import AircraftExamples

        return AircraftExamples(self.training, seed, other=self.other, empty=self.empty)

    def development_examples(self) -> AircraftExamples:
        """Return examples of what is held out, without augmentation.

        They are of the same clips of origin as `test_clips`: so few are there.
        """
        from model.training.drones.dataset import AircraftExamples

        return AircraftExamples(self.held_out, seed=1, augmented=False)

    def development_clips(self, count: int) -> Iterator[LabelledClip]:
        """Yield mp4 files made like those of `test_clips`, of the same clips of origin."""
        from model.training.drones.clips import EvaluationClips

        return EvaluationClips(self.held_out, (), _DEVELOPMENT_SEED).take(count)

    def known_examples(self, cache: Path) -> None:
        """Return None: `other` is a class, so that no clip is of no class."""

    def test_clips(self, count: int, seed: int) -> Iterator[LabelledClip]:
        """Yield mp4 files with sound and picture: movies, and clips made of the held-out part."""
        from model.training.drones.clips import EvaluationClips

        return EvaluationClips(self.held_out, self.movies, seed).take(count)

    def record(self, folder: Path) -> None:
        """Write nothing: the data folder always splits alike."""
