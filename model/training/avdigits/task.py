"""The task avdigits: a handwritten digit (MNIST) that is shown while it is spoken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from model.checkpoint import Card, Source
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import Spec
from model.training.avdigits.held_out import HELD_OUT_PICTURES
from model.training.options import check_ranges, option
from model.training.speech.held_out import HELD_OUT_SPEAKER
from model.training.speech.sources import speech_sources
from model.training.task import LabelledClip, check_task

if TYPE_CHECKING:
    from model.training.avdigits.dataset import Scenes
    from model.training.avdigits.folder import Digits
    from model.training.two_objects import TwoObjects

#: Seeds of the clips and examples that a checkpoint is calibrated on.
_DEVELOPMENT_SEED, _KNOWN_SEED = 11, 3


@dataclass(frozen=True)
class AVDigits:
    """The ten digits: this project's own task, small enough to train on two cores."""

    name: ClassVar = "avdigits"
    version: ClassVar = "1.0.0"
    description: ClassVar = "A handwritten digit, seen while it is heard in English."
    data_help: ClassVar = "Folder of handwriting.npz and speech/."
    labels: ClassVar = tuple("0123456789")
    specs: ClassVar[Mapping[str, Spec]] = PROFILES["avdigits"]
    titles: ClassVar[Mapping[str, str]] = {"audio": "sound", "visual": "picture"}
    missing_streams: ClassVar = True
    box_stream: ClassVar = "visual"
    test_set: ClassVar = (
        f"H.264 + AAC clips, speaker {HELD_OUT_SPEAKER} and pictures that training never saw"
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "modality_dropout": {"all": 0.2, "visual": 0.6, "audio": 0.2}
    }

    defaults_by_data: ClassVar[Mapping[str, str]] = {}
    best_folder: ClassVar = "best"
    transfers: ClassVar = False

    synthetic_takes: int = option(
        300, "Takes of each digit spoken by espeak-ng; 0: none.", between=(0, 10_000)
    )

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)

    def for_data(self, folder: Path) -> AVDigits:
        """Return the task itself: the data decides nothing of it."""
        return self

    def for_checkpoint(self, card: Card, folder: Path) -> AVDigits:
        """Return the task itself. Raises CheckpointError where the card is of another."""
        check_task(self, card, folder)
        return self

    def learning_settings(self) -> Mapping[str, object]:
        from model.training.speech import voices

        return {"synthetic_takes": self.synthetic_takes if voices.available() else 0}

    def card_notes(self) -> Mapping[str, str]:
        pictures = f"the last {HELD_OUT_PICTURES:.0%} of the pictures of each digit"
        return {"held_out": f"speaker {HELD_OUT_SPEAKER}, {pictures}"}

    def sources(self) -> tuple[Source, ...]:
        return (
            Source(
                name="MNIST",
                what="handwritten digits, 18,000 pictures of its training set "
                "(Y. LeCun, C. Cortes, C. J. C. Burges)",
                licence="CC BY-SA 3.0",
            ),
            *speech_sources(self.synthetic_takes),
        )

    def load(self, folder: Path) -> AVDigitsData:
        """Load handwriting.npz and speech/. Raises DataError, naming the files at fault."""
        from model.training.avdigits.folder import halves, load

        training, held_out = load(folder)
        return AVDigitsData(training, *halves(held_out), synthetic_takes=self.synthetic_takes)


@dataclass(frozen=True)
class AVDigitsData:
    """Training digits, and the two halves of the held-out ones: development and test."""

    training: Digits
    development: Digits
    test: Digits
    synthetic_takes: int
    class_weights: ClassVar = None

    @property
    def sha256(self) -> str:
        """Digest of the pictures and words to train on."""
        return self.training.sha256

    def training_examples(self, seed: int, cache: Path) -> Scenes:
        """Return augmented scenes. Synthetic voices are stored in `cache`."""
        from model.training.avdigits.dataset import Scenes
        from model.training.speech import voices

        synthetic = voices.words(self.synthetic_takes, cache)
        return Scenes(self.training, seed=seed, synthetic=synthetic)

    def development_examples(self) -> Scenes:
        """Return scenes without augmentation."""
        from model.training.avdigits.dataset import Scenes

        return Scenes(self.development, seed=1, augmented=False)

    def development_clips(self, count: int) -> Iterator[LabelledClip]:
        """Yield mp4 files like those of `test_clips`, of the development half."""
        from model.training.avdigits.clips import labelled_clips

        return labelled_clips(self.development, count, _DEVELOPMENT_SEED)

    def known_examples(self, cache: Path) -> Scenes:
        """Return examples to train on: other speakers and voices."""
        return self.training_examples(_KNOWN_SEED, cache)

    def test_clips(self, count: int, seed: int) -> Iterator[LabelledClip]:
        """Yield mp4 files with sound and picture, all digits equally often."""
        from model.training.avdigits.clips import labelled_clips

        return labelled_clips(self.test, count, seed)

    def two_objects(self, count: int, seed: int) -> Iterator[TwoObjects]:
        """Yield pictures of two digits of the test half, with a recording of each."""
        from model.training.avdigits.pairs import two_digits

        return two_digits(self.test, count, seed)

    def record(self, folder: Path) -> None:
        """Write nothing: the data folder always splits alike."""
