"""The task avdigits-tactile: a digit that is seen, heard, and felt by the pen that writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from model.checkpoint import Card, Source
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import Spec
from model.training.avdigits.task import AVDigits, AVDigitsData
from model.training.options import check_ranges, option
from model.training.task import LabelledClip, check_task

if TYPE_CHECKING:
    from model.training.avdigits_tactile.dataset import WrittenScenes

#: Seeds of the clips and examples that a checkpoint is calibrated on.
_DEVELOPMENT_SEED, _KNOWN_SEED = 11, 3
#: Note on the third stream in the card.
FORCE_NOTE = (
    "simulated: MNIST has pictures only. Each picture is enlarged four times and thinned to lines "
    "of one pixel; the pen follows them from the highest loose end, straight on at crossings, and "
    "is lifted where no line goes on. Its speed follows the two-thirds power law of handwriting; "
    "the force is the line's width times its darkness (0.5 N for each pixel of MNIST), 200 values "
    "a second. Path, width and darkness are real; order of strokes, speed and force are not "
    "measured"
)


@dataclass(frozen=True)
class AVDigitsTactile:
    """Three streams: avdigits, and the force on the pen over time."""

    name: ClassVar = "avdigits-tactile"
    version: ClassVar = "1.0.0"
    description: ClassVar = (
        "A handwritten digit, seen while it is heard in English, with the (simulated) force on the "
        "pen that wrote it."
    )
    data_help: ClassVar = AVDigits.data_help
    labels: ClassVar = AVDigits.labels
    specs: ClassVar[Mapping[str, Spec]] = PROFILES["avdigits-tactile"]
    titles: ClassVar[Mapping[str, str]] = {**AVDigits.titles, "tactile": "force"}
    missing_streams: ClassVar = True
    box_stream: ClassVar = "visual"
    test_set: ClassVar = f"{AVDigits.test_set}, force on the pen as CSV"
    defaults: ClassVar[Mapping[str, Any]] = {
        "modality_dropout": {"all": 0.3, "tactile": 0.4, "visual": 0.2, "audio": 0.1},
        "alpha": 0.0,
    }
    defaults_by_data: ClassVar[Mapping[str, str]] = {}
    best_folder: ClassVar = "best"
    transfers: ClassVar = True

    synthetic_takes: int = option(
        300, "Takes of each digit spoken by espeak-ng; 0: none.", between=(0, 10_000)
    )

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)

    def for_data(self, folder: Path) -> AVDigitsTactile:
        """Return the task itself: the data decides nothing of it."""
        return self

    def for_checkpoint(self, card: Card, folder: Path) -> AVDigitsTactile:
        """Return the task itself. Raises CheckpointError where the card is of another."""
        check_task(self, card, folder)
        return self

    @property
    def _two_streams(self) -> AVDigits:
        """The task of the pictures and the sounds."""
        return AVDigits(synthetic_takes=self.synthetic_takes)

    def learning_settings(self) -> Mapping[str, object]:
        return self._two_streams.learning_settings()

    def card_notes(self) -> Mapping[str, str]:
        return {**self._two_streams.card_notes(), "tactile": FORCE_NOTE}

    def sources(self) -> tuple[Source, ...]:
        return self._two_streams.sources()

    def load(self, folder: Path) -> AVDigitsTactileData:
        """Load handwriting.npz and speech/. Raises DataError, naming the files at fault."""
        return AVDigitsTactileData(self._two_streams.load(folder))


@dataclass(frozen=True)
class AVDigitsTactileData:
    """The data of avdigits; the force is simulated from its pictures."""

    two_streams: AVDigitsData
    class_weights: ClassVar = None

    @property
    def sha256(self) -> str:
        """Digest of the pictures and words to train on."""
        return self.two_streams.sha256

    def training_examples(self, seed: int, cache: Path) -> WrittenScenes:
        """Return augmented scenes. Synthetic voices are stored in `cache`."""
        from model.training.avdigits_tactile.dataset import WrittenScenes

        return WrittenScenes(self.two_streams.training_examples(seed, cache))

    def development_examples(self) -> WrittenScenes:
        """Return scenes without augmentation."""
        from model.training.avdigits_tactile.dataset import WrittenScenes

        return WrittenScenes(self.two_streams.development_examples())

    def test_clips(self, count: int, seed: int) -> Iterator[LabelledClip]:
        """Yield mp4 files with sound and picture, and CSVs, all digits equally often."""
        from model.training.avdigits_tactile.clips import labelled_clips

        return labelled_clips(self.two_streams.test, count, seed)

    def development_clips(self, count: int) -> Iterator[LabelledClip]:
        """Yield clips like those of `test_clips`, of the development half."""
        from model.training.avdigits_tactile.clips import labelled_clips

        return labelled_clips(self.two_streams.development, count, _DEVELOPMENT_SEED)

    def known_examples(self, cache: Path) -> WrittenScenes:
        """Return examples to train on: other speakers and voices."""
        return self.training_examples(_KNOWN_SEED, cache)

    def record(self, folder: Path) -> None:
        """Write nothing: the data folder always splits alike."""
