"""The data of the task folder: clips in three parts, checked and decoded before they are used."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from rich.console import Console

from model.preprocess.specs import Spec, SpectrogramSpec
from model.training.folder.cache import Entry, Store
from model.training.folder.clip_files import ClipFiles
from model.training.folder.examples import CachedExamples, ServedExamples
from model.training.folder.findings import FATAL, Finding, report
from model.training.folder.inspection import duplicates
from model.training.folder.settings import RATE
from model.training.folder.split import DEVELOPMENT, PARTS, TEST, TRAIN, too_few
from model.training.folder.split_table import LEFT_OUT, write_split
from model.training.progress import track
from model.training.task import DataError, LabelledClip

if TYPE_CHECKING:
    from model.media.types import Clip

#: The folder of decoded clips, beside the folders of runs.
CACHE = "cache"
#: Seed of the examples of `FolderData.known_examples`, and most clips that they are made of.
_KNOWN_SEED, _MOST_KNOWN = 9, 1000


@dataclass(frozen=True)
class FolderClip(LabelledClip):
    """A clip of the folder, read when it is decoded. `streams`: those that are used of it."""

    files: ClipFiles | None = None
    streams: frozenset[str] = frozenset()

    def decode(self, steps: int) -> Clip:
        """Decode the sound and `steps` pictures of its files. Raises MediaError."""
        from model.media.types import Unusable

        assert self.files is not None
        try:
            return self.files.decode(steps, self.streams)
        except OSError as exc:
            raise Unusable(exc.strerror or str(exc)) from exc


@dataclass(frozen=True)
class Part:
    """A clip, the digest of its content, and the part of the data that it is in."""

    files: ClipFiles
    digest: str
    part: str


def row_of(clip: Part, part: str) -> tuple[str, str, str, str, str]:
    """Return the row of a clip in split.csv."""
    return clip.files.name, clip.files.label, clip.files.group, part, clip.digest


class FolderData:
    """Clips with their parts; `findings` are what is wrong with their names.

    `options` of the run: see `FolderTask`. `assign` gives clips their parts again, where some are
    left out.
    """

    def __init__(
        self,
        data: Path,
        parts: Sequence[Part],
        labels: Sequence[str],
        specs: Mapping[str, Spec],
        options: Options,
        findings: Sequence[Finding] = (),
        assign: Callable[[Path, Sequence[Part]], list[Part]] = lambda _, parts: list(parts),
    ) -> None:
        self.data = data
        self.parts = list(parts)
        self.labels = {label: index for index, label in enumerate(labels)}
        self.specs = specs
        self.options = options
        self.findings = list(findings)
        self.assign = assign
        self.left_out: list[Part] = []
        self.stills = False  # known when all are decoded
        self.streams = frozenset(specs)

    @cached_property
    def sha256(self) -> str:
        """Digest of the clips to train on and to choose the epoch by."""
        lines = [
            f"{clip.digest} {clip.files.label} {clip.part}"
            for clip in self.parts
            if clip.part != TEST
        ]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()

    @property
    def class_weights(self) -> list[float] | None:
        """The inverse of each class's share of the clips to train on; the mean over clips is 1."""
        if not self.options.class_weights:
            return None
        counts = Counter(clip.label for clip in self.of(TRAIN))
        total = sum(counts.values())
        return [total / (len(self.labels) * max(1, counts[label])) for label in self.labels]

    def of(self, part: str) -> list[ClipFiles]:
        """Return the clips of a part."""
        return [clip.files for clip in self.parts if clip.part == part]

    def training_examples(self, seed: int, cache: Path) -> CachedExamples:
        """Check and decode all clips, and return augmented examples of those to train on.

        Decoded clips are kept in `cache`/CACHE. Raises DataError with all that is wrong.
        """
        store = self._store(cache)
        self._check(store)
        entries = self._entries(store, self.parts)
        self.stills = all(entry.picture_count() <= 1 for entry in entries)
        training = self._entries(store, [clip for clip in self.parts if clip.part == TRAIN])
        options = self.options
        return CachedExamples(
            training, self.specs, seed, self.stills, options.augment, options.mirror
        )  # fmt: skip

    def _store(self, cache: Path) -> Store:
        spec = self.specs.get("audio")
        rate = cast(SpectrogramSpec, spec).sample_rate if spec else RATE
        side = min(self.specs["visual"].size) if "visual" in self.specs else 0
        return Store(cache / CACHE, self.streams, side, rate)

    def _entries(self, store: Store, clips: Sequence[Part]) -> list[Entry]:
        return [
            Entry(store.file(clip.digest), self.labels[clip.files.label], clip.files.name)
            for clip in clips
        ]

    def _check(self, store: Store) -> None:
        """Fill the cache; raise DataError where something is wrong, or leave those clips out."""
        console = Console(stderr=True)
        findings = [*self.findings, *self._duplicates()]
        findings += store.fill([(clip.files, clip.digest) for clip in self.parts], console)
        if not findings:
            console.print(self._summary(), markup=False, highlight=False)
            return
        message = report(self.data, findings, len(self.parts))
        if any(finding.kind in FATAL for finding in findings):
            are_all = all(finding.kind in FATAL for finding in findings)
            others = (
                ""
                if are_all
                else ("; correct the other files, or leave them out with --skip-faulty")
            )
            raise DataError(f"{message}\nadd clips to these classes{others}")
        if not self.options.skip_faulty:
            raise DataError(f"{message}\ncorrect these files, or leave them out with --skip-faulty")
        console.print(f"{message}\nleft out (--skip-faulty)", markup=False, highlight=False)
        wrong = {finding.where for finding in findings}
        left = [clip for clip in self.parts if clip.files.name not in wrong]
        self.left_out = [clip for clip in self.parts if clip.files.name in wrong]
        self.parts = self.assign(self.data, left)
        files, parts = [clip.files for clip in self.parts], [clip.part for clip in self.parts]
        if fatal := too_few(files, parts, self.labels, self._is_grouped()):
            raise DataError(report(self.data, fatal, len(files)))
        console.print(self._summary(), markup=False, highlight=False)

    def _summary(self) -> str:
        """Return the number of clips of each class and part."""
        counts = Counter(clip.files.label for clip in self.parts)
        classes = ", ".join(f"{label} {counts[label]}" for label in self.labels)
        parts = ", ".join(f"{part} {len(self.of(part))}" for part in PARTS)
        alike = "".join(
            f"\nwarning: the classes {' and '.join(labels)} differ in case only"
            for labels in _alike(self.labels)
        )
        return f"{self.data}: nothing wrong with {len(self.parts)} clips: {classes}; {parts}{alike}"

    def _duplicates(self) -> Iterator[Finding]:
        digests = {clip.files.name: clip.digest for clip in self.parts}
        labels = {clip.files.name: clip.files.label for clip in self.parts}
        return duplicates(digests, labels)

    def _is_grouped(self) -> bool:
        return is_grouped([clip.files for clip in self.parts])

    def development_examples(self) -> ServedExamples:
        """Return the clips that the best epoch is chosen by, in random order."""
        clips = [(clip, self.labels[clip.label]) for clip in self.of(DEVELOPMENT)]
        order = np.random.default_rng(0).permutation(len(clips))
        return ServedExamples([clips[i] for i in order], self.specs, self.stills)

    def development_clips(self, count: int) -> Iterator[LabelledClip]:
        """Yield the clips that the best epoch is chosen by, at most `count`."""
        return self._labelled(DEVELOPMENT, count, 0)

    def known_examples(self, cache: Path) -> CachedExamples:
        """Return augmented examples of the clips that were trained on, and of those that the best
        epoch was chosen by; of at most _MOST_KNOWN of them, chosen at random.

        They are mirrored where those to train on may be. Decoded clips are kept in `cache`/CACHE.
        Raises DataError where one cannot be decoded.
        """
        store = self._store(cache)
        known = [clip for clip in self.parts if clip.part in (TRAIN, DEVELOPMENT)]
        order = np.random.default_rng(_KNOWN_SEED).permutation(len(known))[:_MOST_KNOWN]
        known = [known[index] for index in sorted(order)]
        console = Console(stderr=True)
        if findings := store.fill([(clip.files, clip.digest) for clip in known], console):
            raise DataError(report(self.data, findings, len(known)))
        entries = self._entries(store, known)
        stills = all(entry.picture_count() <= 1 for entry in entries)
        mirror = self.options.mirror
        return CachedExamples(entries, self.specs, _KNOWN_SEED, stills, mirror=mirror)

    def test_clips(self, count: int, seed: int) -> Iterator[LabelledClip]:
        """Yield the clips to test on, at most `count`."""
        return self._labelled(TEST, count, seed)

    def _labelled(self, part: str, count: int, seed: int) -> Iterator[LabelledClip]:
        clips = self.of(part)
        order = np.random.default_rng(seed).permutation(len(clips))[:count]
        for index in sorted(order):
            clip = clips[index]
            yield FolderClip(
                b"", self.labels[clip.label], name=clip.name, files=clip, streams=self.streams
            )

    def record(self, folder: Path) -> None:
        """Write split.csv: which clips were trained on, so that no evaluation measures them."""
        write_split(folder, [*(row_of(clip, clip.part) for clip in self.parts),
                             *(row_of(clip, LEFT_OUT) for clip in self.left_out)])  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The options of `FolderTask` that `FolderData` depends on."""

    augment: bool = True
    mirror: bool = True
    class_weights: bool = True
    skip_faulty: bool = False


def _alike(labels: Iterable[str]) -> list[list[str]]:
    """Return the labels that differ in case only: two folders of one class, most likely."""
    by_name: dict[str, list[str]] = {}
    for label in labels:
        by_name.setdefault(label.casefold(), []).append(label)
    return [same for same in by_name.values() if len(same) > 1]


def digests(clips: Sequence[ClipFiles]) -> dict[str, str]:
    """Return the digest of each clip's content by its name. Raises DataError."""
    result = {}
    console = Console(stderr=True)
    for clip in track(clips, "reading files", console=console):
        try:
            result[clip.name] = clip.digest()
        except OSError as exc:
            raise DataError(f"{clip.name}: cannot be read: {exc.strerror}") from exc
    return result


def is_grouped(clips: Sequence[ClipFiles]) -> bool:
    """Return whether some group has several clips."""
    return len({clip.group for clip in clips}) < len(clips)


def limit_per_class(parts: Sequence[Part], count: int, seed: int) -> list[Part]:
    """Return all but the clips to train on beyond `count` of a class, chosen at random.

    A smaller count leaves a part of what a greater one leaves.
    """
    order = np.random.default_rng([seed, 1]).permutation(len(parts))
    counts: Counter[str] = Counter()
    chosen = set()
    for index in order:
        clip = parts[index]
        if clip.part != TRAIN or counts[clip.files.label] < count:
            chosen.add(index)
            counts[clip.files.label] += clip.part == TRAIN
    return [replace(clip) for index, clip in enumerate(parts) if index in chosen]
