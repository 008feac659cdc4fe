"""The task ndigits-events: a digit of N-MNIST that an event camera films while it is heard."""

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
    from model.training.ndigits_events.dataset import FilmedWords
    from model.training.ndigits_events.folder import Parts

#: Seed of the clips that a checkpoint is calibrated on.
_DEVELOPMENT_SEED = 11
#: Seed of the examples that a checkpoint is to know, beside the development clips.
_KNOWN_SEED = 12


@dataclass(frozen=True)
class NDigitsEvents:
    """The ten digits as events: real ones of a camera, and simulated ones of a cochlea."""

    name: ClassVar = "ndigits-events"
    version: ClassVar = "1.0.0"
    description: ClassVar = (
        "A handwritten digit, filmed by an event camera while a simulated cochlea hears it in "
        "English."
    )
    data_help: ClassVar = "Folder of nmnist/ (labels.csv, events/) and avdigits/speech/ or speech/."
    labels: ClassVar = tuple("0123456789")
    specs: ClassVar[Mapping[str, Spec]] = PROFILES["ndigits-events"]
    titles: ClassVar[Mapping[str, str]] = {"audio": "sound", "visual": "events"}
    missing_streams: ClassVar = True
    box_stream: ClassVar = None
    test_set: ClassVar = (
        "N-MNIST recordings that training never saw, as they are; speaker "
        f"{HELD_OUT_SPEAKER}, by the simulated cochlea"
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "steps": 16,
        "splitting": "shallow",
        "embed_dim": 64,
        "modality_dropout": {"all": 0.2, "visual": 0.55, "audio": 0.25},
        "development_clips": 90,
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

    def for_data(self, folder: Path) -> NDigitsEvents:
        """Return the task itself: the data decides nothing of it."""
        return self

    def for_checkpoint(self, card: Card, folder: Path) -> NDigitsEvents:
        """Return the task itself. Raises CheckpointError where the card is of another."""
        check_task(self, card, folder)
        return self

    def learning_settings(self) -> Mapping[str, object]:
        from model.training.speech import voices

        return {"synthetic_takes": self.synthetic_takes if voices.available() else 0}

    def card_notes(self) -> Mapping[str, str]:
        return {
            "held_out": f"speaker {HELD_OUT_SPEAKER}, whose takes choose the epoch and are tested "
            "on by turns; recordings of the split test; the last tenth of the others chooses the "
            "epoch",
            "cochlea": "simulated: 32 gammatone filters and integrate-and-fire neurons "
            "(scmrl cochlea)",
        }

    def sources(self) -> tuple[Source, ...]:
        return (
            Source(
                name="N-MNIST",
                what="811 recordings of an event camera that moves before handwritten digits "
                "(G. Orchard, A. Jayawant, G. Cohen, N. Thakor, 2015), from pictures of MNIST "
                "(CC BY-SA 3.0)",
                licence="CC BY-SA 4.0",
            ),
            *speech_sources(self.synthetic_takes),
        )

    def load(self, folder: Path) -> NDigitsData:
        """Load recordings and words. Raises DataError, naming the files at fault."""
        from model.training.ndigits_events.folder import load

        return NDigitsData(load(folder), synthetic_takes=self.synthetic_takes)


@dataclass(frozen=True)
class NDigitsData:
    """Digits to train on, to choose the epoch by, and to test on."""

    parts: Parts
    synthetic_takes: int
    class_weights: ClassVar = None

    @property
    def sha256(self) -> str:
        """Digest of the recordings and words to train on."""
        return self.parts.training.sha256

    def training_examples(self, seed: int, cache: Path) -> FilmedWords:
        """Return augmented examples. Synthetic voices are stored in `cache`."""
        from model.training.ndigits_events.dataset import FilmedWords
        from model.training.speech import voices

        synthetic = voices.words(self.synthetic_takes, cache)
        return FilmedWords(self.parts.training, seed=seed, synthetic=synthetic)

    def development_examples(self) -> FilmedWords:
        """Return examples without augmentation."""
        from model.training.ndigits_events.dataset import FilmedWords

        return FilmedWords(self.parts.development, seed=1, augmented=False)

    def development_clips(self, count: int) -> Iterator[LabelledClip]:
        """Yield files of events of both streams, as `test_clips` does."""
        from model.training.ndigits_events.clips import labelled_clips

        return labelled_clips(self.parts.development, count, _DEVELOPMENT_SEED)

    def known_examples(self, cache: Path) -> FilmedWords:
        """Return examples to train on: other speakers and voices, other writers."""
        return self.training_examples(_KNOWN_SEED, cache)

    def test_clips(self, count: int, seed: int) -> Iterator[LabelledClip]:
        """Yield files of events of both streams: recordings of the camera in turn, each time with
        another word."""
        from model.training.ndigits_events.clips import labelled_clips

        return labelled_clips(self.parts.test, count, seed)

    def record(self, folder: Path) -> None:
        """Write nothing: the data folder always splits alike."""
