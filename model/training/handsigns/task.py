"""The task handsigns: a digit that is shown by hand while it is spoken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from model.checkpoint import Card, Source
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import Spec
from model.training.options import check_ranges, option
from model.training.speech.held_out import HELD_OUT_SPEAKER
from model.training.speech.sources import speech_sources
from model.training.task import LabelledClip, check_task

if TYPE_CHECKING:
    from model.training.handsigns.dataset import Scenes
    from model.training.handsigns.folder import ShownDigits
    from model.training.two_objects import TwoObjects

#: Seeds of the clips and examples that a checkpoint is calibrated on.
_DEVELOPMENT_SEED, _KNOWN_SEED = 11, 3


@dataclass(frozen=True)
class HandSigns:
    """The ten digits by hand, in colour, before any background."""

    name: ClassVar = "handsigns"
    version: ClassVar = "1.0.0"
    description: ClassVar = "A digit shown by hand, seen while it is heard in English."
    data_help: ClassVar = (
        "Folder of signdigits/ (labels.csv, images/) and avdigits/speech/ or speech/."
    )
    labels: ClassVar = tuple("0123456789")
    specs: ClassVar[Mapping[str, Spec]] = PROFILES["handsigns"]
    titles: ClassVar[Mapping[str, str]] = {"audio": "sound", "visual": "picture"}
    missing_streams: ClassVar = True
    box_stream: ClassVar = "visual"
    test_set: ClassVar = (
        f"H.264 + AAC clips, speaker {HELD_OUT_SPEAKER}, signers and backgrounds that training "
        "never saw"
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "modality_dropout": {"all": 0.2, "visual": 0.6, "audio": 0.2}
    }
    defaults_by_data: ClassVar[Mapping[str, str]] = {}
    best_folder: ClassVar = "best"
    transfers: ClassVar = True

    synthetic_takes: int = option(
        300, "Takes of each digit spoken by espeak-ng; 0: none.", between=(0, 10_000)
    )
    backgrounds: int = option(
        600, "Backgrounds that hands are composed onto in training.", between=(5, 20_000)
    )

    difficulty: float = option(
        1.0,
        "Greatest difficulty of the scenes to train on; the clips to test on have 0.6.",
        between=(0, 1),
    )
    plain: float = option(
        0.3, "Share of photographs with their own wall among the pictures to train on.",
        between=(0, 1),
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)

    def for_data(self, folder: Path) -> HandSigns:
        """Return the task itself: the data decides nothing of it."""
        return self

    def for_checkpoint(self, card: Card, folder: Path) -> HandSigns:
        """Return the task itself. Raises CheckpointError where the card is of another."""
        check_task(self, card, folder)
        return self

    def learning_settings(self) -> Mapping[str, object]:
        from model.training.speech import voices

        takes = self.synthetic_takes if voices.available() else 0
        return {
            "synthetic_takes": takes, "backgrounds": self.backgrounds,
            "difficulty": self.difficulty, "plain": self.plain,
        }  # fmt: skip

    def card_notes(self) -> Mapping[str, str]:
        from model.training.backgrounds import DEVELOPMENT, TEST, TRAINING

        return {
            "held_out": f"speaker {HELD_OUT_SPEAKER}, signers whose split is val; every other one "
            "of them chooses the epoch, the rest is tested on",
            "backgrounds": f"drawn: {', '.join(TRAINING)}; to choose the epoch by: "
            f"{', '.join(DEVELOPMENT)}; to test on: {', '.join(TEST)}",
        }

    def sources(self) -> tuple[Source, ...]:
        return (
            Source(
                name="Sign Language Digits Dataset",
                what="1,397 photographs of digits shown by hand, 140 signers (Turkey Ankara "
                "Ayranci Anadolu High School's students; project: Zeynep Dikle and Arda Mavi)",
                licence="Apache-2.0",
            ),
            *speech_sources(self.synthetic_takes),
        )

    def load(self, folder: Path) -> HandSignsData:
        """Load both data folders. Raises DataError, naming the files at fault."""
        from model.training.handsigns.folder import halves, load

        training, held_out = load(folder)
        return HandSignsData(
            training, *halves(held_out), synthetic_takes=self.synthetic_takes,
            backgrounds=self.backgrounds, difficulty=self.difficulty, plain=self.plain,
        )  # fmt: skip


@dataclass(frozen=True)
class HandSignsData:
    """Training digits, and the two halves of the held-out ones: development and test."""

    training: ShownDigits
    development: ShownDigits
    test: ShownDigits
    synthetic_takes: int
    backgrounds: int
    difficulty: float
    plain: float
    class_weights: ClassVar = None

    @property
    def sha256(self) -> str:
        """Digest of the photographs and words to train on."""
        return self.training.sha256

    def training_examples(self, seed: int, cache: Path) -> Scenes:
        """Return augmented scenes. Synthetic voices are stored in `cache`."""
        from model.training.backgrounds import TRAINING
        from model.training.handsigns.dataset import Scenes
        from model.training.speech import voices

        synthetic = voices.words(self.synthetic_takes, cache)
        return Scenes(
            self.training, seed=seed, kinds=TRAINING, backgrounds=self.backgrounds,
            synthetic=synthetic, difficulty=self.difficulty, plain=self.plain,
        )  # fmt: skip

    def development_examples(self) -> Scenes:
        """Return scenes without augmentation, plain and busy alternately."""
        from model.training.backgrounds import DEVELOPMENT
        from model.training.handsigns.dataset import Scenes

        return Scenes(self.development, seed=1, kinds=DEVELOPMENT, backgrounds=200, augmented=False)

    def development_clips(self, count: int) -> Iterator[LabelledClip]:
        """Yield mp4 files like those of `test_clips`, of the development half."""
        from model.training.backgrounds import DEVELOPMENT
        from model.training.handsigns.clips import labelled_clips

        return labelled_clips(self.development, count, _DEVELOPMENT_SEED, DEVELOPMENT)

    def known_examples(self, cache: Path) -> Scenes:
        """Return examples to train on: other speakers and voices."""
        return self.training_examples(_KNOWN_SEED, cache)

    def test_clips(self, count: int, seed: int) -> Iterator[LabelledClip]:
        """Yield mp4 files with sound and picture, all digits equally often, plain and busy."""
        from model.training.handsigns.clips import labelled_clips

        return labelled_clips(self.test, count, seed)

    def two_objects(self, count: int, seed: int) -> Iterator[TwoObjects]:
        """Yield pictures of two hands of the test half, with a recording of each digit."""
        from model.training.handsigns.pairs import two_hands

        return two_hands(self.test, count, seed)

    def record(self, folder: Path) -> None:
        """Write nothing: the data folder always splits alike."""
