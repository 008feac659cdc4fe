"""The task mnistdvs-ntidigits: a digit, seen by an event camera and heard by a cochlea."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from model.checkpoint import Card, Source
from model.checkpoint.published_tasks import PUBLISHED_TASKS
from model.config import MAX_SEED
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import EventFrameSpec, Spec
from model.training.folder.split import DEVELOPMENT, TEST, TRAIN
from model.training.options import check_ranges, option
from model.training.paper.hyperparameters import PAPER
from model.training.paper.mnist_dvs import SCALES, list_mnist_dvs
from model.training.paper.split_notes import (
    defaults_of_counts,
    fields_of_card,
    specs_of_card,
    split_notes,
)
from model.training.task import DATA_NOTE, check_task

if TYPE_CHECKING:
    from model.training.paper.event_pairs import EventOptions, EventPairData

_PUBLISHED = PUBLISHED_TASKS["mnistdvs-ntidigits"]


@dataclass(frozen=True)
class MNISTDVSNTIDigits:
    """MNIST-DVS with N-TIDIGITS18. `for_data` and `for_checkpoint` fill in what is no option."""

    name: ClassVar = _PUBLISHED.name
    version: ClassVar = "1.0.0"
    description: ClassVar = _PUBLISHED.description
    data_help: ClassVar = (
        "Folder of n-tidigits.hdf5 (N-TIDIGITS18) and grabbed_data0/scale4/*.aedat and so on "
        "(MNIST-DVS)."
    )
    labels: ClassVar = _PUBLISHED.labels
    titles: ClassVar[Mapping[str, str]] = {"audio": "cochlea", "visual": "camera"}
    box_stream: ClassVar = None
    defaults_by_data: ClassVar[Mapping[str, str]] = {
        "clips": "the number of pairs to train on",
        "development_clips": "all that the epoch is chosen on",
    }
    best_folder: ClassVar = "best"
    transfers: ClassVar = True

    scale: str = option(
        "4", "Scale of the recordings of MNIST-DVS; published is the smallest.", choices=SCALES
    )
    split_seed: int = option(
        0, "Decides which half of each digit's recordings is trained on.", between=(0, MAX_SEED)
    )
    development_share: float = option(
        0.0,
        "Share of the training recordings and speakers that choose the best epoch; 0: all are "
        "trained on, and the test pairs choose it, as published.",
        between=(0, 0.5),
    )
    copies: int = option(
        1, "Augmented versions of each pair; 0: a new one each time.", between=(0, 1_000_000)
    )
    skip_faulty: bool = option(False, "Go on without what is missing or unreadable.")
    missing_streams: bool = option(
        False, "Classify clips that lack a stream, for a --modality-dropout with each."
    )

    specs: Mapping[str, Spec] = field(default_factory=lambda: PROFILES["mnistdvs_ntidigits"])
    defaults: Mapping[str, Any] = field(
        default_factory=lambda: {**PAPER, "steps": 16, "embed_dim": 256, "splitting": "shallow"}
    )
    notes: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)

    @property
    def test_set(self) -> str:
        """The pairs that a checkpoint is measured on."""
        chosen = "" if self.development_share or not self.notes else ", which chose the epoch"
        return f"test pairs of MNIST-DVS and N-TIDIGITS18{chosen}"

    def for_data(self, folder: Path) -> MNISTDVSNTIDigits:
        """Return the task with defaults, specs and notes that the folder decides. Raises
        DataError."""
        data = self.load(folder)
        counts = {part: len(data.of(part)) for part in (TRAIN, DEVELOPMENT, TEST)}
        return replace(
            self,
            specs=self._specs(),
            defaults=defaults_of_counts(self.defaults, counts),
            notes={
                DATA_NOTE: str(folder),
                "clips": f"{counts[TRAIN]} pairs to train, {counts[DEVELOPMENT] or 'no other'} to "
                f"choose the epoch, {counts[TEST]} to test; the published split has 5000 and 5000",
                "split": "a random half of each digit's recordings, with the samples of "
                "N-TIDIGITS18's own parts in turn",
                **split_notes(self.split_seed, self.development_share, self.skip_faulty),
                "scale": self.scale,
                "left_out": f'{data.spoken.left_out} samples of "oh"',
                "augmentation": "frames of the camera moved by up to 4 cells, "
                f"{self.copies or 'endless'} version{'s' if self.copies != 1 else ''} of each pair",
            },
        )

    def _specs(self) -> dict[str, Spec]:
        """Return the preprocessing: digits at a larger scale fill a larger window."""
        side = 28 * int(self.scale) // int(SCALES[0])
        camera = self.specs["visual"]
        assert isinstance(camera, EventFrameSpec)
        return {**self.specs, "visual": camera.model_copy(update={"window": (side, side)})}

    def for_checkpoint(self, card: Card, folder: Path) -> MNISTDVSNTIDigits:
        """Return the task with a card's split. Raises CheckpointError where it is of another."""
        check_task(replace(self, specs=specs_of_card(self.specs, card)), card, folder)
        notes = card.training.notes if card.training else {}
        return replace(
            self,
            scale=notes.get("scale", SCALES[0]),
            **fields_of_card(card, folder),
        )

    def learning_settings(self) -> Mapping[str, object]:
        """Return the options that decide the weights."""
        names = ("scale", "split_seed", "development_share", "copies")
        return {name: getattr(self, name) for name in names}

    def card_notes(self) -> Mapping[str, str]:
        """Return how the pairs were made and augmented."""
        return self.notes

    def sources(self) -> tuple[Source, ...]:
        """Return MNIST-DVS and N-TIDIGITS18."""
        return _PUBLISHED.sources

    def load(self, folder: Path) -> EventPairData:
        """List both data sets, and split and pair them. Raises DataError."""
        from model.training.paper.event_pairs import EventPairData
        from model.training.paper.ntidigits import list_ntidigits

        recordings, findings = list_mnist_dvs(folder, self.scale)
        return EventPairData(
            folder, recordings, list_ntidigits(folder), self.specs, self._options(), findings,
            self.checkpoint,
        )  # fmt: skip

    def _options(self) -> EventOptions:
        from model.training.paper.event_pairs import EventOptions

        return EventOptions(self.copies, self.development_share, self.split_seed, self.skip_faulty)
