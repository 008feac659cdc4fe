"""The task folder: `scmrl train folder --data DIR` trains on clips of one's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from model.checkpoint import CARD, Card, CheckpointError, Source, read_card
from model.config import MAX_SEED
from model.preprocess.specs import Spec
from model.training.folder.clip_files import ClipFiles
from model.training.folder.clip_source import list_clips
from model.training.folder.findings import Finding, report
from model.training.folder.listing import Listing
from model.training.folder.settings import SOUNDS, SPECS, TITLES, TOKEN, specs_of
from model.training.folder.split import DEVELOPMENT, TEST, TRAIN, split, too_few
from model.training.options import OptionsError, check_ranges, option
from model.training.task import DATA_NOTE, DataError

if TYPE_CHECKING:
    from model.training.folder.data import FolderData, Part

#: Values of `--task`, and the streams of each.
STREAMS: dict[str, frozenset[str]] = {
    "audio-visual": frozenset({"audio", "visual"}),
    "audio": frozenset({"audio"}),
    "visual": frozenset({"visual"}),
}
AUTO = "auto"
#: Fewest examples of an epoch: smaller folders are drawn several times.
MIN_EPOCH = 160
#: Note of the card, and its values where clips are changed at random.
_AUGMENTATION = "augmentation"
_MIRRORED, _NOT_MIRRORED = "pictures and sounds", "pictures, which are not mirrored, and sounds"


@dataclass(frozen=True)
class FolderTask:
    """Clips of one's own, by class. `for_data` and `for_checkpoint` fill in what is no option."""

    name: ClassVar = "folder"
    version: ClassVar = "1.0.0"
    titles: ClassVar[Mapping[str, str]] = TITLES
    box_stream: ClassVar = None
    best_folder: ClassVar = "."
    transfers: ClassVar = True
    data_help: ClassVar = (
        "Folder of DIR/CLASS/CLIP.mp4, or of pairs by name (CLIP.wav and CLIP.jpg), or of one "
        "stream alone; or a .csv file: file, label and, not required, split, group, start, end."
    )
    defaults_by_data: ClassVar[Mapping[str, str]] = {
        "clips": f"the number of clips to train on, {MIN_EPOCH} or more",
        "batch": "chosen by clips and memory",
        "development_clips": "all, at most 400",
        "modality_dropout": "all=0.5,audio=0.25,visual=0.25; one stream: all=1",
        "name": "that of the folder --out",
    }

    task: str = option(
        AUTO,
        "Streams that are classified; auto: those that the files have.",
        choices=(AUTO, *STREAMS),
    )
    sound: str = option("general", "What the sounds are.", choices=tuple(SOUNDS))
    seconds: float = option(
        0.0,
        "Seconds of sound that are kept, where most happens; 0: 1.6 of speech, 4 of general sound.",
        between=(0, 60),
    )
    picture_size: int = option(
        128, f"Side of the pictures in pixels, a multiple of {2 * TOKEN}.", between=(32, 512)
    )
    fit: str = option(
        "pad", "Fit the whole picture into a square, or crop its centre.", choices=("pad", "crop")
    )
    like: Path | None = option(
        None, "A checkpoint whose preprocessing to use, so that --init-from it fits best."
    )
    mirror: bool = option(True, "Mirror pictures at random.")
    augment: bool = option(True, "Change pictures and sounds at random.")
    class_weights: bool = option(True, "Weigh rare classes more, so that all count alike.")
    development_share: float = option(
        0.15, "Share of the clips for choosing the best epoch.", between=(0.01, 0.5)
    )
    test_share: float = option(0.2, "Share of the clips for testing.", between=(0.01, 0.5))
    split_seed: int = option(0, "Random seed of the split.", between=(0, MAX_SEED))
    per_class: int = option(
        0, "Maximum number of training clips per class; 0: all.", between=(0, 1_000_000)
    )
    skip_faulty: bool = option(False, "Leave clips out that have something wrong.")
    licence: str = option("not stated", "Licence of the clips, for the card.")

    labels: tuple[str, ...] = ()
    specs: Mapping[str, Spec] = field(default_factory=dict)
    missing_streams: bool = False
    defaults: Mapping[str, Any] = field(
        default_factory=lambda: {
            "epochs": 60, "embed_dim": 64, "patience": 20, "select_by": "loss",
            "settle_norms": 2, "precision": "auto", "auto_batch": True, "test_clips": 1000,
            "calibrate": True,
        }
    )  # fmt: skip
    notes: dict[str, str] = field(default_factory=dict)
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)
        if self.picture_size % (2 * TOKEN):
            raise OptionsError(
                f"--picture-size {self.picture_size}: must be a multiple of {2 * TOKEN}"
            )

    @property
    def description(self) -> str:
        """Description of the task: what is classified, by which streams."""
        if not self.labels:
            return "Clips of your own, sorted by class or listed in a table."
        streams = " and ".join(TITLES[name] for name in self.specs)
        return f"One of {', '.join(self.labels)}, by {streams}."

    @property
    def test_set(self) -> str:
        """The clips that a checkpoint is measured on."""
        split = self.notes.get("split", "")
        return "clips that training never saw" + (f", {split.partition(':')[0]}" if split else "")

    def for_data(self, folder: Path) -> Self:
        """Return the task with the labels, streams and defaults of a folder or table.

        Raises DataError where there are no two classes, and OptionsError.
        """
        listing = list_clips(folder)
        parts = self._split(listing.clips)
        if len(listing.labels) < 2:  # no network has one class; what else is wrong `load` says
            findings = [*listing.findings, *self._too_few(listing.clips, parts)]
            raise DataError(report(folder, findings, len(listing.clips)))
        streams = self._streams(listing.clips)
        counts = Counter(parts)
        training = [clip for clip, part in zip(listing.clips, parts, strict=True) if part == TRAIN]
        if self.per_class:
            by_class = Counter(clip.label for clip in training)
            counts[TRAIN] = sum(min(n, self.per_class) for n in by_class.values())
        together = len(streams) > 1
        dropout = {"all": 0.5, "audio": 0.25, "visual": 0.25} if together else {"all": 1.0}
        return replace(
            self,
            labels=listing.labels,
            specs=self._specs(streams),
            missing_streams=together,
            defaults={
                **self.defaults,
                "clips": max(counts[TRAIN], MIN_EPOCH),
                "development_clips": min(max(1, counts[DEVELOPMENT]), 400),
                "modality_dropout": dropout,
            },
            notes=self._notes(folder, listing.clips, counts),
        )

    def _split(self, clips: Sequence[ClipFiles]) -> list[str]:
        return split(clips, self.development_share, self.test_share, self.split_seed)

    def _too_few(self, clips: Sequence[ClipFiles], parts: Sequence[str]) -> list[Finding]:
        from model.training.folder.data import is_grouped

        labels = sorted({clip.label for clip in clips})
        return too_few(clips, parts, labels, is_grouped(clips))

    def _streams(self, clips: Sequence[ClipFiles]) -> frozenset[str]:
        """Return the streams that are asked for, or else those that any clip's files have."""
        if self.task != AUTO:
            return STREAMS[self.task]
        with_sound = any(clip.sound_file is not None for clip in clips)
        with_pictures = any(clip.picture_file is not None for clip in clips)
        streams = {"audio": with_sound, "visual": with_pictures}
        return frozenset(name for name, is_used in streams.items() if is_used)

    def _specs(self, streams: frozenset[str]) -> dict[str, Spec]:
        if self.like is None:
            return specs_of(streams, self.sound, self.seconds, self.picture_size, self.fit)
        specs = read_card(self.like).streams
        missing = streams - specs.keys()
        if missing:
            raise OptionsError(f"--like {self.like}: has no stream {', '.join(sorted(missing))}")
        for name in sorted(streams):
            if not isinstance(specs[name], SPECS[name]):
                kind = specs[name].kind
                raise OptionsError(
                    f"--like {self.like}: its stream {name} takes {kind}, not a {TITLES[name]}"
                )
        return {name: spec for name, spec in specs.items() if name in streams}

    def _notes(
        self, folder: Path, clips: Sequence[ClipFiles], counts: Mapping[str, int]
    ) -> dict[str, str]:
        from model.training.folder.data import is_grouped

        by = "group" if is_grouped(clips) else "file"
        by = "the table" if all(clip.split for clip in clips) else f"{by}, seed {self.split_seed}"
        return {
            DATA_NOTE: str(folder),
            "split": f"split by {by}: {counts[TRAIN]} clips to train, {counts[DEVELOPMENT]} to "
            f"choose the epoch, {counts[TEST]} to test",
            "class_weights": "inverse of the class's share" if self.class_weights else "none",
            _AUGMENTATION: self._augmentation(),
        }

    def _augmentation(self) -> str:
        if not self.augment:
            return "none"
        return _MIRRORED if self.mirror else _NOT_MIRRORED

    def for_checkpoint(self, card: Card, folder: Path) -> Self:
        """Return the task with a card's labels and preprocessing. Raises CheckpointError."""
        unknown = card.streams.keys() - TITLES.keys()
        if unknown:
            problem = f"{', '.join(sorted(unknown))}: streams of this task are {', '.join(TITLES)}"
            raise CheckpointError(folder / CARD, "streams", problem)
        assert card.training is not None
        return replace(
            self,
            labels=card.labels,
            specs=card.streams,
            missing_streams=card.missing_streams,
            notes=dict(card.training.notes),
            mirror=card.training.notes.get(_AUGMENTATION, _MIRRORED) == _MIRRORED,
            checkpoint=folder,
        )

    def learning_settings(self) -> Mapping[str, object]:
        """Return the options that decide the weights."""
        names = ("sound", "seconds", "picture_size", "fit", "mirror", "augment")
        values: dict[str, object] = {name: getattr(self, name) for name in names}
        values |= {"class_weights": self.class_weights, "per_class": self.per_class}
        values["task (streams)"] = self.task  # the setting `task` is the task's name
        values["like"] = self.like.resolve() if self.like else None
        return values

    def card_notes(self) -> Mapping[str, str]:
        """Return how the clips were split and weighed."""
        return self.notes

    def sources(self) -> tuple[Source, ...]:
        """Return the folder as the one source."""
        what = self.notes.get("split", "")
        return (Source(name=self.notes.get(DATA_NOTE, "folder"), what=what, licence=self.licence),)

    def load(self, folder: Path) -> FolderData:
        """List a folder or table, digest its files and split them.

        Of a checkpoint's task, the parts are those of its training, and clips that it has not seen
        are to test on. Raises DataError where names, labels or files are wrong.
        """
        from model.training.folder.data import FolderData, Options

        listing = list_clips(folder)
        parts = self._parts(folder, listing)
        options = Options(self.augment, self.mirror, self.class_weights, self.skip_faulty)
        findings = list(listing.findings)
        if self.checkpoint is None:
            clips = [clip.files for clip in parts]
            findings += self._too_few(clips, [clip.part for clip in parts])
        return FolderData(
            folder, parts, self.labels, self.specs, options, findings, self._assign_again
        )  # fmt: skip

    def _assign_again(self, folder: Path, clips: Sequence[Part]) -> list[Part]:
        """Return the clips that are left in the parts of a run, and count them for the card."""
        parts = self._assign(clips)
        counts = Counter(clip.part for clip in parts)
        self.notes.update(self._notes(folder, [clip.files for clip in parts], counts))
        return parts

    def _assign(self, clips: Sequence[Part]) -> list[Part]:
        """Return clips in the parts of a run, without those beyond `per_class`."""
        from model.training.folder.data import limit_per_class

        parts = self._split([clip.files for clip in clips])
        assigned = [replace(clip, part=part) for clip, part in zip(clips, parts, strict=True)]
        if not self.per_class:
            return assigned
        return limit_per_class(assigned, self.per_class, self.split_seed)

    def _parts(self, folder: Path, listing: Listing) -> list[Part]:
        from model.training.folder.data import Part, digests
        from model.training.folder.split_table import recorded_parts

        if not listing.clips:
            raise DataError(report(folder, listing.findings, 0))
        by_name = digests(listing.clips)
        if self.checkpoint is None:
            return self._assign([Part(clip, by_name[clip.name], TRAIN) for clip in listing.clips])
        foreign = [label for label in listing.labels if label not in self.labels]
        if foreign:
            raise DataError(
                f"{folder}: classes {', '.join(foreign)} are not those of the checkpoint, "
                f"{', '.join(self.labels)}"
            )
        parts = recorded_parts(self.checkpoint)
        return [
            Part(clip, by_name[clip.name], parts.get(by_name[clip.name], TEST))
            for clip in listing.clips
        ]
