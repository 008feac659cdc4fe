"""The task urbansound8k-av: what makes a sound of the city, by sound and picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from model.checkpoint import Card, Source
from model.checkpoint.published_tasks import PUBLISHED_TASKS
from model.config import MAX_SEED
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import Spec
from model.training.folder.clip_files import ClipFiles
from model.training.folder.findings import Finding
from model.training.folder.listing import IGNORED, Listing
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

_PUBLISHED = PUBLISHED_TASKS["urbansound8k-av"]
#: Classes in the published order.
LABELS = _PUBLISHED.labels
#: Folders of the public layout, and the endings of the files in their class folders.
PICTURES = ("Dataset_v3_vision", (".jpg", ".jpeg", ".png"))
SOUNDS = ("Dataset_v3_sound", (".wav",))
#: Share of each class, in order of the names, that is trained on.
TRAINING_SHARE = 0.7


@dataclass(frozen=True)
class UrbanSound8KAV:
    """UrbanSound8K-AV: sounds of UrbanSound8K with a picture each. `for_data` and
    `for_checkpoint` fill in `notes`."""

    name: ClassVar = _PUBLISHED.name
    version: ClassVar = "1.0.0"
    description: ClassVar = f"A source of city sound, heard and seen: one of {', '.join(LABELS)}."
    data_help: ClassVar = (
        "Folder of Dataset_v3_vision/CLASS/*.jpg and Dataset_v3_sound/CLASS/*.wav, or of "
        "CLASS/*.jpg with CLASS/*.wav of the same names."
    )
    labels: ClassVar = LABELS
    titles: ClassVar[Mapping[str, str]] = {"audio": "sound", "visual": "picture"}
    box_stream: ClassVar = None
    defaults_by_data: ClassVar[Mapping[str, str]] = {
        "clips": "the number of clips to train on",
        "development_clips": "all that the epoch is chosen on",
    }
    best_folder: ClassVar = "best"
    transfers: ClassVar = True

    development_share: float = option(
        0.0,
        "Share of the training clips that choose the best epoch; 0: all are trained on, and the "
        "test clips choose it, as published.",
        between=(0, 0.5),
    )
    split_seed: int = option(0, "Decides the clips of --development-share.", between=(0, MAX_SEED))
    copies: int = option(
        COPIES, "Augmented versions of each clip; 0: a new one each time.", between=(0, 1_000_000)
    )
    mirror: bool = option(True, "Mirror pictures at random.")
    skip_faulty: bool = option(False, "Go on without clips that are missing or unreadable.")
    missing_streams: bool = option(
        False, "Classify clips that lack sound or picture, for a --modality-dropout with each."
    )

    defaults: Mapping[str, Any] = field(
        default_factory=lambda: {**PAPER, "steps": 4, "embed_dim": 64}
    )
    specs: Mapping[str, Spec] = field(default_factory=lambda: PROFILES["urbansound8k_av"])
    notes: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)

    @property
    def test_set(self) -> str:
        """The clips that a checkpoint is measured on."""
        chosen = "" if self.development_share or not self.notes else ", which chose the epoch"
        return f"test clips of UrbanSound8K-AV, as published{chosen}"

    def for_data(self, folder: Path) -> UrbanSound8KAV:
        """Return the task with defaults and notes that the folder decides. Raises DataError."""
        counts = Counter(part for _, part in self._parts(list_urbansound8k_av(folder)))
        return replace(
            self,
            defaults=defaults_of_counts(self.defaults, counts),
            notes=self._notes(folder, counts),
        )

    def _notes(self, folder: Path, counts: Mapping[str, int]) -> dict[str, str]:
        return {
            DATA_NOTE: str(folder),
            "clips": f"{counts[TRAIN]} clips to train, {counts[DEVELOPMENT] or 'no other'} to "
            f"choose the epoch, {counts[TEST]} to test",
            "split": "the first 70 % of each class by name are trained on",
            **split_notes(self.split_seed, self.development_share, self.skip_faulty),
            "augmentation": f"random resized crop{' and mirror image' if self.mirror else ''}, "
            f"{self.copies or 'endless'} versions of each clip",
        }

    def for_checkpoint(self, card: Card, folder: Path) -> UrbanSound8KAV:
        """Return the task with a card's split. Raises CheckpointError where it is of another."""
        check_task(replace(self, specs=specs_of_card(self.specs, card)), card, folder)
        return replace(self, **fields_of_card(card, folder))

    def learning_settings(self) -> Mapping[str, object]:
        """Return the options that decide the weights."""
        names = ("split_seed", "development_share", "copies", "mirror")
        return {name: getattr(self, name) for name in names}

    def card_notes(self) -> Mapping[str, str]:
        """Return how the clips were split and augmented."""
        return self.notes

    def sources(self) -> tuple[Source, ...]:
        """Return UrbanSound8K-AV."""
        return _PUBLISHED.sources

    def load(self, folder: Path) -> PairData:
        """List a folder, digest its files and split them. Raises DataError."""
        from model.training.paper.pairs import PairData, PairOptions

        listing = list_urbansound8k_av(folder)
        options = PairOptions(self.copies, self.mirror, self.skip_faulty)
        return PairData(
            folder, self._parts(listing), self.labels, self.specs, options, listing.findings,
            self.checkpoint,
        )  # fmt: skip

    def _parts(self, listing: Listing) -> list[tuple[ClipFiles, str]]:
        """Return the clips with their parts: of each class the first ones by name are trained on.

        The last of them is rounded as published, over the clips of all classes before.
        """
        from model.training.paper.pairs import hold_back

        parts: list[tuple[ClipFiles, str]] = []
        for label in LABELS:
            clips = [clip for clip in listing.clips if clip.label == label]
            first = len(parts)
            end = round(first + len(clips) * TRAINING_SHARE)
            parts += [
                (clip, TRAIN if index < end else TEST) for index, clip in enumerate(clips, first)
            ]
        return hold_back(parts, self.development_share, self.split_seed)


def list_urbansound8k_av(data: Path) -> Listing:
    """Return the pictures and sounds of each class, paired and ordered by name.

    Findings are unknown classes, files without their counterpart, and files of other endings.
    Raises DataError where there is no folder of a known class.
    """
    two_trees = (data / PICTURES[0]).is_dir() or (data / SOUNDS[0]).is_dir()
    pictures = data / PICTURES[0] if two_trees else data
    sounds = data / SOUNDS[0] if two_trees else data
    classes = sorted({*_folders(pictures), *_folders(sounds)})
    if not set(classes) & set(LABELS):
        raise DataError(
            f"{data}: holds no folder of a class; it must hold {PICTURES[0]}/CLASS/*.jpg and "
            f"{SOUNDS[0]}/CLASS/*.wav; classes are {', '.join(LABELS)}"
        )
    clips: list[ClipFiles] = []
    findings: list[Finding] = []
    for label in classes:
        if label not in LABELS:
            message = f"must be one of {', '.join(LABELS)}"
            findings.append(Finding("unknown class", label, message))
            continue
        of_class, wrong = _list_class(data, label, [pictures / label, sounds / label])
        clips += of_class
        findings += wrong
    return Listing(tuple(clips), tuple(findings))


def _folders(where: Path) -> list[str]:
    """Return the names of the folders in a folder."""
    try:
        return [path.name for path in where.iterdir()
                if path.is_dir() and not path.name.startswith(".")]  # fmt: skip
    except OSError as exc:
        raise DataError(f"{where}: cannot be read: {exc.strerror}") from exc


def _list_class(
    data: Path, label: str, folders: list[Path]
) -> tuple[list[ClipFiles], list[Finding]]:
    """Return the clips of a class, ordered by name, and what is wrong with names."""
    pictures: dict[str, Path] = {}
    sounds: dict[str, Path] = {}
    findings: list[Finding] = []
    for path in sorted(
        {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    ):
        ending = path.suffix.lower()
        if path.name.startswith(".") or path.name.lower() in IGNORED:
            continue
        if ending not in (*PICTURES[1], *SOUNDS[1]):
            message = f"must end with one of {', '.join((*PICTURES[1], *SOUNDS[1]))}"
            findings.append(Finding("wrong name", path.relative_to(data).as_posix(), message))
            continue
        by_stem = sounds if ending in SOUNDS[1] else pictures
        first = by_stem.setdefault(path.stem, path)
        if first != path:
            message = f"there is {first.name} as well; one of them is to go"
            findings.append(Finding("wrong name", path.relative_to(data).as_posix(), message))
    clips = []
    for stem in sorted(pictures.keys() | sounds.keys()):
        files = [by_stem[stem] for by_stem in (pictures, sounds) if stem in by_stem]
        name = " + ".join(file.relative_to(data).as_posix() for file in files)
        if len(files) == 1:
            lacking = f"{stem}.wav" if stem in pictures else f"{stem}.jpg"
            findings.append(Finding("missing file", name, f"there is no {lacking} of {label}"))
            continue
        pair = (("picture", pictures[stem]), ("sound", sounds[stem]))
        clips.append(ClipFiles(name, label, name, pair))  # type: ignore[arg-type]
    return clips, findings
