"""The data of a task of sounds and pictures in files: checked as a whole, then trained on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from model.arrays import Float32Array
from model.preprocess.frames import stretch_picture
from model.preprocess.specs import FrameSpec, Spec, SpectrogramSpec
from model.training.folder.clip_files import ClipFiles
from model.training.folder.data import CACHE, FolderClip, Part, digests, row_of
from model.training.folder.examples import ServedExamples, turn_order
from model.training.folder.findings import FATAL, Finding, report
from model.training.folder.split import DEVELOPMENT, PARTS, TEST, TRAIN
from model.training.folder.split_table import LEFT_OUT, SPLIT, seen_digests, write_split
from model.training.paper.crop import draw_crop
from model.training.paper.store import Pair, PairStore, is_remark
from model.training.task import BatchPlan, DataError, LabelledClip


@dataclass(frozen=True)
class PairOptions:
    """The options of a task that `PairData` depends on.

    `copies`: augmented versions of each clip, of which one is drawn each time; 0: always a new one.
    `mirror`: whether pictures may be mirrored. `skip_faulty`: leave faulty clips out.
    """

    copies: int
    mirror: bool
    skip_faulty: bool


@dataclass(frozen=True)
class PairExamples:
    """Pairs to train on, each once in another order each turn: as published, pictures are cropped
    and mirrored at random, and sounds are not changed."""

    pairs: Sequence[Pair]
    specs: Mapping[str, Spec]
    seed: int
    options: PairOptions

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, Float32Array], int]:
        """Return tensors [1, C, H, W] of the plan's streams, and the class."""
        turn, position = divmod(index, len(self.pairs))
        number = int(turn_order(len(self.pairs), self.seed, turn)[position])
        pair = self.pairs[number]
        streams = {}
        for name in plan.streams:
            spec = self.specs[name]
            if isinstance(spec, FrameSpec):
                rng = self._generator(index, number)
                streams[name] = self._picture(pair, spec, rng, plan.difficulty)
            else:
                streams[name] = pair.spectrogram()
        return streams, pair.label

    def _generator(self, index: int, number: int) -> np.random.Generator:
        """Return the generator of an example, or of one of the versions of its pair."""
        rng = np.random.default_rng([self.seed, index, 3])
        if not self.options.copies:
            return rng
        return np.random.default_rng([self.seed, number, int(rng.integers(self.options.copies))])

    def _picture(
        self, pair: Pair, spec: FrameSpec, rng: np.random.Generator, strength: float
    ) -> Float32Array:
        picture = pair.picture()
        crop = draw_crop(
            picture.shape[0], picture.shape[1], rng, strength=strength,
            mirror=self.options.mirror and strength > 0,
        )  # fmt: skip
        return stretch_picture(crop.apply(picture), spec)


class PairData:
    """Pairs of a sound and a picture in their parts; `findings` are what is wrong with names.

    Without development clips, the epoch is chosen on the test clips, as published. `checkpoint`:
    the folder of the checkpoint that is measured; None in a training.
    """

    def __init__(
        self,
        data: Path,
        parts: Sequence[tuple[ClipFiles, str]],
        labels: Sequence[str],
        specs: Mapping[str, Spec],
        options: PairOptions,
        findings: Sequence[Finding],
        checkpoint: Path | None = None,
    ) -> None:
        self.data = data
        self.labels = {label: index for index, label in enumerate(labels)}
        self.specs = specs
        self.options = options
        self.findings = list(findings)
        self.class_weights: None = None
        self.left_out: list[Part] = []
        self.is_measured = checkpoint is not None
        if checkpoint is None:
            self.findings += _without_clips(parts, labels)
            by_name = digests([files for files, _ in parts])
        else:
            self._refuse_findings(len(parts))
            parts = [(files, part) for files, part in parts if part != TRAIN]
            by_name = digests([files for files, _ in parts])
            parts = _unseen(parts, by_name, checkpoint)
        self.parts = [Part(files, by_name[files.name], part) for files, part in parts]

    def of(self, part: str) -> list[ClipFiles]:
        """Return the clips of a part."""
        return [clip.files for clip in self.parts if clip.part == part]

    @property
    def sha256(self) -> str:
        """Digest of the clips to train on and to choose the epoch by."""
        lines = sorted(
            f"{clip.digest} {clip.files.label} {clip.part}"
            for clip in self.parts
            if clip.part != TEST
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def training_examples(self, seed: int, cache: Path) -> PairExamples:
        """Check and decode all clips, and return augmented examples of those to train on.

        Decoded clips are kept in `cache`/CACHE. Raises DataError with all that is wrong.
        """
        spec = self.specs["audio"]
        assert isinstance(spec, SpectrogramSpec)
        store = PairStore(cache / CACHE, spec)
        self._check(store)
        pairs = [
            Pair(store.file(clip.digest), self.labels[clip.files.label])
            for clip in self.parts
            if clip.part == TRAIN
        ]
        return PairExamples(pairs, self.specs, seed, self.options)

    def _check(self, store: PairStore) -> None:
        """Fill the cache; raise DataError where something is wrong, or leave those clips out."""
        console = Console(stderr=True)
        decoded = store.fill([(clip.files, clip.digest) for clip in self.parts], console)
        remarks = [finding for finding in decoded if is_remark(finding)]
        if remarks:
            text = report(self.data, remarks, len(self.parts))
            console.print(f"{text}\ntrained on nevertheless", markup=False, highlight=False)
        self.findings += [finding for finding in decoded if not is_remark(finding)]
        self._refuse_findings(len(self.parts))
        if self.findings:
            text = report(self.data, self.findings, len(self.parts))
            console.print(f"{text}\nleft out (--skip-faulty)", markup=False, highlight=False)
            wrong = {finding.where for finding in self.findings}
            self.left_out = [clip for clip in self.parts if clip.files.name in wrong]
            self.parts = [clip for clip in self.parts if clip.files.name not in wrong]
            left = [(clip.files, clip.part) for clip in self.parts]
            if fatal := _without_clips(left, list(self.labels)):
                raise DataError(report(self.data, fatal, len(left)))
        console.print(self._summary(), markup=False, highlight=False)

    def _refuse_findings(self, count: int) -> None:
        """Raise DataError where something is wrong with some of `count` clips, and stays."""
        fatal = any(finding.kind in FATAL for finding in self.findings)
        if not self.findings or (self.options.skip_faulty and not fatal):
            return
        hint = "correct these files, or train without them: --skip-faulty"
        if fatal:
            hint = "add clips to these classes"
        elif self.is_measured:
            hint = "correct these files: an accuracy without them is not comparable"
        raise DataError(f"{report(self.data, self.findings, count)}\n{hint}")

    def _summary(self) -> str:
        """Return the number of clips of each class and part."""
        counts = Counter(clip.files.label for clip in self.parts)
        classes = ", ".join(f"{label} {counts[label]}" for label in self.labels)
        parts = ", ".join(f"{part} {len(self.of(part))}" for part in PARTS if self.of(part))
        return f"{self.data}: {len(self.parts)} clips: {classes}; {parts}"

    def development_examples(self) -> ServedExamples:
        """Return the clips that the best epoch is chosen by: of the test set, where none are held
        back for it."""
        clips = self.of(DEVELOPMENT)
        labelled = [(clip, self.labels[clip.label]) for clip in clips or self.of(TEST)]
        order = np.random.default_rng(0).permutation(len(labelled))
        return ServedExamples([labelled[i] for i in order], self.specs, stills=True)

    def development_clips(self, count: int) -> Iterator[LabelledClip]:
        """Yield the clips that the best epoch is chosen by, at most `count`. Raises DataError where
        none are held back for it."""
        if not self.of(DEVELOPMENT):
            raise DataError(
                f"{self.data}: no clips but test clips were held back from the training; train "
                "with --development-share to calibrate"
            )
        return self._labelled(DEVELOPMENT, count, 0)

    def known_examples(self, cache: Path) -> None:
        """Return None: there are no others than the clips themselves."""

    def test_clips(self, count: int, seed: int) -> Iterator[LabelledClip]:
        """Yield the clips to test on, at most `count`."""
        return self._labelled(TEST, count, seed)

    def _labelled(self, part: str, count: int, seed: int) -> Iterator[LabelledClip]:
        clips = self.of(part)
        order = np.random.default_rng(seed).permutation(len(clips))[:count]
        for index in sorted(order):
            clip = clips[index]
            yield FolderClip(
                b"",
                self.labels[clip.label],
                name=clip.name,
                files=clip,
                streams=frozenset(self.specs),
            )

    def record(self, folder: Path) -> None:
        """Write split.csv: the part of each clip."""
        write_split(folder, [*(row_of(clip, clip.part) for clip in self.parts),
                             *(row_of(clip, LEFT_OUT) for clip in self.left_out)])  # fmt: skip


def _without_clips(parts: Sequence[tuple[ClipFiles, str]], labels: Sequence[str]) -> list[Finding]:
    """Return a finding for each class without a clip to train on, and for an empty test set."""
    counts = Counter((files.label, part) for files, part in parts)
    findings = [
        Finding("class with too few", label, "has no clip to train on")
        for label in labels
        if not counts[label, TRAIN]
    ]
    if not any(part == TEST for _, part in parts):
        findings.append(Finding("class with too few", "test set", "there is no clip to test on"))
    return findings


def _unseen(
    parts: Sequence[tuple[ClipFiles, str]], by_name: Mapping[str, str], checkpoint: Path
) -> list[tuple[ClipFiles, str]]:
    """Return the clips without test clips that a checkpoint was trained on, by its split.csv."""
    if not (checkpoint / SPLIT).is_file():  # imported: its split is not known
        return list(parts)
    trained = seen_digests(checkpoint)
    return [
        (files, part) for files, part in parts if part != TEST or by_name[files.name] not in trained
    ]


def hold_back(
    parts: Sequence[tuple[ClipFiles, str]], share: float, seed: int
) -> list[tuple[ClipFiles, str]]:
    """Move a share of the clips to train on to the development part, drawn at random.

    Whole groups are moved, of each class as large a share; groups of several classes count as a
    class of their own. At least one group of each is moved where `share` is not 0.
    """
    labels: dict[str, set[str]] = {}
    for files, part in parts:
        if part == TRAIN and share:
            labels.setdefault(files.group, set()).add(files.label)
    classes: dict[str, list[str]] = {}
    for group in sorted(labels):
        classes.setdefault(min(labels[group]) if len(labels[group]) == 1 else "", []).append(group)
    held_out = set()
    rng = np.random.default_rng([seed, 1])
    for _, groups in sorted(classes.items()):
        order = rng.permutation(len(groups))
        held_out |= {groups[i] for i in order[: max(1, round(share * len(groups)))]}
    return [(files, DEVELOPMENT if files.group in held_out else part) for files, part in parts]
