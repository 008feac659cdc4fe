"""The task crema-d: the emotion of an actor who says a sentence, by face and voice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from model.checkpoint import Card, Source
from model.checkpoint.published_tasks import PUBLISHED_TASKS
from model.config import MAX_SEED
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import Spec
from model.training.folder.clip_files import ClipFiles
from model.training.folder.findings import Finding
from model.training.folder.listing import Listing
from model.training.folder.split import DEVELOPMENT, TEST, TRAIN
from model.training.options import check_ranges, option
from model.training.paper.hyperparameters import COPIES, PAPER
from model.training.paper.split_notes import (
    defaults_of_counts,
    fields_of_card,
    specs_of_card,
    split_notes,
)
from model.training.task import DATA_NOTE, DataError, check_task

if TYPE_CHECKING:
    from model.training.paper.pairs import PairData

_PUBLISHED = PUBLISHED_TASKS["crema-d"]
#: Meaning of the class codes.
EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
#: Folders of the public layout, and the ending of the files in each.
VIDEOS, SOUNDS = ("VideoFlash", ".flv"), ("AudioWAV", ".wav")
#: Splits of the clips: as published, by clip; or by actor, so that no test actor is trained on.
SPLITS = PUBLISHED, SUBJECTS = ("published", "subjects")
#: Share of the actors that `subjects` tests on: 9 of the 91.
TEST_SHARE = 0.1
#: Clips to train on in the published split.
PUBLISHED_TRAINING_CLIPS = 6698
#: ACTOR_SENTENCE_EMOTION_LEVEL.
_NAME = re.compile(r"(\d{4})_[A-Z]{3}_([A-Z]{3})_[A-Z]{1,2}")


@dataclass(frozen=True)
class CremaD:
    """CREMA-D: 7,442 clips of 91 actors. `for_data` and `for_checkpoint` fill in `notes`."""

    name: ClassVar = _PUBLISHED.name
    version: ClassVar = "1.0.0"
    description: ClassVar = (
        "An actor's emotion, by face and voice: "
        + ", ".join(f"{code} ({word})" for code, word in EMOTIONS.items())
        + "."
    )
    data_help: ClassVar = "Folder of VideoFlash/*.flv and AudioWAV/*.wav, as CREMA-D has them."
    labels: ClassVar = _PUBLISHED.labels
    titles: ClassVar[Mapping[str, str]] = {"audio": "sound", "visual": "picture"}
    box_stream: ClassVar = None
    defaults_by_data: ClassVar[Mapping[str, str]] = {
        "clips": "the number of clips to train on",
        "development_clips": "all that the epoch is chosen on",
    }
    best_folder: ClassVar = "best"
    transfers: ClassVar = True

    split: str = option(
        PUBLISHED,
        "Split by clip, as published (744 test clips, whose actors are trained on as well), or by "
        "actor, so that no actor who is tested on was trained on.",
        choices=SPLITS,
    )
    split_seed: int = option(
        0, "Decides the actors of --split subjects, and the clips of --development-share.",
        between=(0, MAX_SEED),
    )  # fmt: skip
    development_share: float = option(
        0.0,
        "Share of the training clips (or actors) that choose the best epoch; 0: all are trained "
        "on, and the test clips choose it, as published.",
        between=(0, 0.5),
    )
    copies: int = option(
        COPIES, "Augmented versions of each clip; 0: a new one each time.", between=(0, 1_000_000)
    )
    mirror: bool = option(True, "Mirror pictures at random.")
    skip_faulty: bool = option(False, "Go on without clips that are missing or unreadable.")
    missing_streams: bool = option(
        False, "Classify clips that lack sound or picture, for a --modality-dropout with each."
    )

    defaults: Mapping[str, Any] = field(default_factory=lambda: {**PAPER, "steps": 4,
                                                                 "embed_dim": 256})  # fmt: skip
    specs: Mapping[str, Spec] = field(default_factory=lambda: PROFILES["crema_d"])
    notes: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)

    @property
    def test_set(self) -> str:
        """The clips that a checkpoint is measured on."""
        own = "of actors that training never saw" if self.split == SUBJECTS else "as published"
        chosen = "" if self.development_share or not self.notes else ", which chose the epoch"
        return f"test clips of CREMA-D, {own}{chosen}"

    def for_data(self, folder: Path) -> CremaD:
        """Return the task with defaults and notes that the folder decides. Raises DataError."""
        counts = Counter(part for _, part in self._parts(list_crema_d(folder)))
        return replace(
            self,
            defaults=defaults_of_counts(self.defaults, counts),
            notes=self._notes(folder, counts),
        )

    def _notes(self, folder: Path, counts: Mapping[str, int]) -> dict[str, str]:
        clips = f"{counts[TRAIN]} clips to train, {counts[DEVELOPMENT] or 'no other'} to choose "
        clips += f"the epoch, {counts[TEST]} to test"
        if self.split == PUBLISHED and counts[TRAIN] != PUBLISHED_TRAINING_CLIPS:
            clips += f"; the published split has {PUBLISHED_TRAINING_CLIPS} and 744"
        return {
            DATA_NOTE: str(folder),
            "clips": clips,
            "split": self.split,
            **split_notes(self.split_seed, self.development_share, self.skip_faulty),
            "augmentation": f"random resized crop{' and mirror image' if self.mirror else ''}, "
            f"{self.copies or 'endless'} versions of each clip",
        }

    def for_checkpoint(self, card: Card, folder: Path) -> CremaD:
        """Return the task with a card's split. Raises CheckpointError where it is of another."""
        check_task(replace(self, specs=specs_of_card(self.specs, card)), card, folder)
        notes = card.training.notes if card.training else {}
        return replace(
            self,
            split=notes.get("split", PUBLISHED),
            **fields_of_card(card, folder),
        )

    def learning_settings(self) -> Mapping[str, object]:
        """Return the options that decide the weights."""
        names = ("split", "split_seed", "development_share", "copies", "mirror")
        return {name: getattr(self, name) for name in names}

    def card_notes(self) -> Mapping[str, str]:
        """Return how the clips were split and augmented."""
        return self.notes

    def sources(self) -> tuple[Source, ...]:
        """Return CREMA-D."""
        return _PUBLISHED.sources

    def load(self, folder: Path) -> PairData:
        """List a folder, digest its files and split them. Raises DataError."""
        from model.training.paper.pairs import PairData, PairOptions

        listing = list_crema_d(folder)
        options = PairOptions(self.copies, self.mirror, self.skip_faulty)
        findings = [*listing.findings, *self._absent(listing)]
        return PairData(
            folder, self._parts(listing), self.labels, self.specs, options, findings,
            self.checkpoint,
        )  # fmt: skip

    def _parts(self, listing: Listing) -> list[tuple[ClipFiles, str]]:
        """Return the clips with their parts."""
        from model.training.paper.pairs import hold_back

        if self.split == SUBJECTS:
            actors = _test_actors(listing, self.split_seed)
            parts = [(clip, TEST if clip.group in actors else TRAIN) for clip in listing.clips]
            return hold_back(parts, self.development_share, self.split_seed)
        names = published_test_names()
        clips = [replace(clip, group=_stem(clip)) for clip in listing.clips]  # one by one
        parts = [(clip, TEST if clip.group in names else TRAIN) for clip in clips]
        return hold_back(parts, self.development_share, self.split_seed)

    def _absent(self, listing: Listing) -> list[Finding]:
        """Return a finding for each clip of the published test set of which there is no file."""
        if self.split != PUBLISHED:
            return []
        stems = {_stem(clip) for clip in listing.clips}
        stems |= {Path(finding.where).stem for finding in listing.findings}
        message = "is in the published test set, and not in the folder"
        return [
            Finding("missing file", name, message)
            for name in sorted(published_test_names())
            if name not in stems
        ]


def list_crema_d(data: Path) -> Listing:
    """Return the clips of VideoFlash/ and AudioWAV/, paired by name, in groups by actor.

    Findings are files without their counterpart, other names, and unknown emotions. Raises
    DataError where one of the folders is not there or empty.
    """
    videos, sounds = (_files(data, *folder) for folder in (VIDEOS, SOUNDS))
    clips, findings = [], []
    for stem in sorted(videos.keys() | sounds.keys()):
        files = [by_stem[stem] for by_stem in (videos, sounds) if stem in by_stem]
        name = " + ".join(file.relative_to(data).as_posix() for file in files)
        finding = _finding(stem, name, stem in videos, stem in sounds)
        if finding is not None:
            findings.append(finding)
            continue
        actor, _, emotion, _ = stem.split("_")
        pair = (("movie", videos[stem]), ("sound", sounds[stem]))
        clips.append(ClipFiles(name, emotion, actor, pair))  # type: ignore[arg-type]
    return Listing(tuple(clips), tuple(findings))


def _files(data: Path, folder: str, ending: str) -> dict[str, Path]:
    """Return the files of one of the folders by their stems."""
    expected = f"{data} must hold VideoFlash/*.flv and AudioWAV/*.wav"
    folder_path = data / folder
    try:
        names = sorted(path for path in folder_path.iterdir() if not path.name.startswith("."))
    except OSError as exc:
        raise DataError(f"{folder_path}: cannot be read: {exc.strerror}; {expected}") from exc
    files = {path.stem: path for path in names if path.suffix.lower() == ending}
    if not files:
        raise DataError(f"{folder_path}: holds no {ending} file; {expected}")
    return files


def _finding(stem: str, name: str, has_video: bool, has_sound: bool) -> Finding | None:
    """Return what is wrong with a clip by its name."""
    match = _NAME.fullmatch(stem)
    if match is None:
        message = "is not named ACTOR_SENTENCE_EMOTION_LEVEL, such as 1001_DFA_ANG_XX"
        return Finding("wrong name", name, message)
    if match[2] not in EMOTIONS:
        return Finding("unknown class", name, f"{match[2]}: must be one of {', '.join(EMOTIONS)}")
    if not has_sound:
        return Finding("missing file", name, f"there is no {SOUNDS[0]}/{stem}{SOUNDS[1]}")
    if not has_video:
        return Finding("missing file", name, f"there is no {VIDEOS[0]}/{stem}{VIDEOS[1]}")
    return None


def _stem(clip: ClipFiles) -> str:
    """Return the name of both files of a clip without their endings."""
    return clip.files[0][1].stem


def published_test_names() -> frozenset[str]:
    """Return the stems of the 744 test clips: those of Peng et al., CVPR 2022 (OGM-GE), whose
    numbers in each class the paper's training has."""
    text = resources.files(__package__ or "").joinpath("crema_d_test.txt").read_text()
    return frozenset(text.split())


def _test_actors(listing: Listing, seed: int) -> set[str]:
    """Return the actors that are tested on: a share of them, at least one."""
    import numpy as np  # here: the command line lists this task without it

    actors = sorted({clip.group for clip in listing.clips})
    order = np.random.default_rng(seed).permutation(len(actors))
    return {actors[i] for i in order[: max(1, round(TEST_SHARE * len(actors)))]}
