"""The data of the task mnistdvs-ntidigits: recordings and samples of a digit, joined to pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console

from model.media.events.reader import read_camera_events
from model.media.events.types import CameraEvents, ChannelEvents
from model.media.types import Clip, MediaError, Unusable
from model.preprocess.specs import EventFrameSpec, Spec
from model.training.folder.findings import FATAL, Finding, report
from model.training.folder.split import DEVELOPMENT, PARTS, TEST, TRAIN
from model.training.folder.split_table import SPLIT, seen_digests, write_split
from model.training.paper.event_examples import EventExamples, EventPair
from model.training.paper.mnist_dvs import Recording
from model.training.paper.ntidigits import NTIDigits, SpokenDigit
from model.training.progress import track
from model.training.task import DataError, LabelledClip

_T = TypeVar("_T")


@dataclass(frozen=True)
class EventClip(LabelledClip):
    """A pair as a clip, read when it is decoded. `read`: see `EventPairData.read`."""

    pair: EventPair | None = None
    streams: tuple[str, ...] = ()
    read: Callable[[str, EventPair], CameraEvents | ChannelEvents] | None = None

    def decode(self, steps: int) -> Clip:
        """Read the events. Raises MediaError."""
        assert self.pair is not None
        assert self.read is not None
        try:
            events = {name: self.read(name, self.pair) for name in self.streams}
        except OSError as exc:
            raise Unusable(exc.strerror or str(exc)) from exc
        return Clip(None, None, events=events)


@dataclass(frozen=True)
class EventOptions:
    """The options of a task that `EventPairData` depends on.

    `copies`: augmented versions of each pair, of which one is drawn each time; 0: always a new one.
    """

    copies: int
    development_share: float
    split_seed: int
    skip_faulty: bool


class EventPairData:
    """Recordings of MNIST-DVS in parts, each joined with a sample of N-TIDIGITS18.

    As published, half of each digit's recordings, drawn at random, is trained on, and the samples
    are those of the file's own parts, used again in turn where there are fewer. Without development
    pairs the epoch is chosen on the test pairs. `checkpoint`: the folder of the checkpoint that is
    measured; None in a training.
    """

    def __init__(
        self,
        data: Path,
        recordings: Sequence[Recording],
        spoken: NTIDigits,
        specs: Mapping[str, Spec],
        options: EventOptions,
        findings: Sequence[Finding],
        checkpoint: Path | None = None,
    ) -> None:
        self.data = data
        self.spoken = spoken
        self.specs = specs
        self.options = options
        self.findings = [*findings, *spoken.findings]
        self.checkpoint = checkpoint
        self.class_weights: None = None
        self.recordings = split_recordings(recordings, options)
        self.samples = split_samples(spoken.samples, options)
        if checkpoint is not None:
            self._refuse_findings()
            self.recordings = {**self.recordings, TEST: self._unseen(checkpoint)}

    def read(self, stream: str, pair: EventPair) -> CameraEvents | ChannelEvents:
        """Return the events of one stream of a pair. Raises MediaError and OSError."""
        is_camera = isinstance(self.specs[stream], EventFrameSpec)
        return _read_recording(pair.recording) if is_camera else self.spoken.read(pair.sample)

    def of(self, part: str) -> list[EventPair]:
        """Return the pairs of a part, digit by digit."""
        pairs = []
        for digit in range(10):
            samples = [sample for sample in self.samples[part] if sample.digit == digit]
            recordings = [
                recording for recording in self.recordings[part] if recording.digit == digit
            ]
            if samples:
                pairs += [
                    EventPair(recording, samples[number % len(samples)])
                    for number, recording in enumerate(recordings)
                ]
        return pairs

    @property
    def sha256(self) -> str:
        """Digest of the recordings and samples to train on and to choose the epoch by."""
        lines = [
            f"{_digest(pair.recording.path)} {pair.sample.name} {part}"
            for part in (TRAIN, DEVELOPMENT)
            for pair in self.of(part)
        ]
        lines.append(_digest(self.spoken.path))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def training_examples(self, seed: int, cache: Path) -> EventExamples:
        """Check all recordings and samples, and return augmented pairs to train on.

        Raises DataError with all that is wrong.
        """
        self._check()
        return EventExamples(
            self.of(TRAIN), self.specs, self.read, seed, self.options.copies, augment=True
        )

    def _check(self) -> None:
        """Read everything once; raise DataError where something is wrong, or leave it out."""
        console = Console(stderr=True)
        unreadable: set[object] = set()
        for part in PARTS:
            jobs: list[tuple[str, object, Callable[[], object]]] = [
                (
                    member.path.relative_to(self.data).as_posix(),
                    member,
                    lambda member=member: _read_recording(member),  # type: ignore[misc]
                )
                for member in self.recordings[part]
            ]
            jobs += [
                (
                    f"{self.spoken.path.name}, {member.part}, {member.name}",
                    member,
                    lambda member=member: self.spoken.read(member),  # type: ignore[misc]
                )
                for member in self.samples[part]
            ]
            for name, member, read in track(jobs, f"reading ({part})", console=console):
                problem = _problem(read)
                if problem:
                    self.findings.append(Finding("unreadable", name, problem))
                    unreadable.add(member)
        self.recordings = _without(self.recordings, unreadable)
        self.samples = _without(self.samples, unreadable)
        self.findings += self._without_pairs()
        self._refuse_findings()
        if self.findings:
            text = report(self.data, self.findings, sum(map(len, self.recordings.values())))
            console.print(f"{text}\nleft out (--skip-faulty)", markup=False, highlight=False)
        counts = ", ".join(f"{part} {len(self.of(part))}" for part in PARTS if self.of(part))
        oh = f'; "oh" left out: {self.spoken.left_out}' if self.spoken.left_out else ""
        console.print(f"{self.data}: pairs: {counts}{oh}", markup=False, highlight=False)

    def _without_pairs(self) -> list[Finding]:
        """Return a finding for each digit without a pair to train on, and to test on."""
        findings = []
        for part, purpose in ((TRAIN, "train"), (TEST, "test")):
            digits = {pair.sample.digit for pair in self.of(part)}
            findings += [
                Finding(
                    "class with too few", str(digit),
                    f"has no recording and sample to {purpose} on",
                )
                for digit in range(10)
                if digit not in digits
            ]  # fmt: skip
        return findings

    def _refuse_findings(self) -> None:
        """Raise DataError where something is wrong that is not to be left out."""
        fatal = any(finding.kind in FATAL for finding in self.findings)
        if not self.findings or (self.options.skip_faulty and not fatal):
            return
        hint = "correct these files, or train without them: --skip-faulty"
        if fatal:
            hint = "add recordings or samples of these digits"
        elif self.checkpoint is not None:
            hint = "correct these files: an accuracy without them is not comparable"
        count = sum(map(len, self.recordings.values()))
        raise DataError(f"{report(self.data, self.findings, count)}\n{hint}")

    def _unseen(self, checkpoint: Path) -> list[Recording]:
        """Return the test recordings that a checkpoint was not trained on, by its split.csv."""
        tested = self.recordings[TEST]
        if not (checkpoint / SPLIT).is_file():  # imported: its split is not known
            return tested
        trained = seen_digests(checkpoint)
        return [recording for recording in tested if _digest(recording.path) not in trained]

    def development_examples(self) -> EventExamples:
        """Return the pairs that the best epoch is chosen by: the test pairs, where none are held
        back for it."""
        pairs = self.of(DEVELOPMENT)
        pairs = pairs or self.of(TEST)
        order = np.random.default_rng(0).permutation(len(pairs))
        return EventExamples([pairs[i] for i in order], self.specs, self.read)

    def development_clips(self, count: int) -> Iterator[LabelledClip]:
        """Yield the pairs that the best epoch is chosen by, at most `count`. Raises DataError where
        none are held back for it."""
        if not self.of(DEVELOPMENT):
            raise DataError(
                f"{self.data}: no pairs but test pairs were held back from the training; train "
                "with --development-share to calibrate"
            )
        return self._labelled(DEVELOPMENT, count, 0)

    def known_examples(self, cache: Path) -> None:
        """Return None: there are no others than the pairs themselves."""

    def test_clips(self, count: int, seed: int) -> Iterator[LabelledClip]:
        """Yield the pairs to test on, at most `count`."""
        return self._labelled(TEST, count, seed)

    def _labelled(self, part: str, count: int, seed: int) -> Iterator[LabelledClip]:
        pairs = self.of(part)
        order = np.random.default_rng(seed).permutation(len(pairs))[:count]
        for index in sorted(order):
            pair = pairs[index]
            name = f"{pair.recording.path.name} + {pair.sample.name}"
            yield EventClip(
                b"", pair.sample.digit, name=name, pair=pair, streams=tuple(self.specs),
                read=self.read,
            )  # fmt: skip

    def record(self, folder: Path) -> None:
        """Write split.csv: the part of each recording."""
        write_split(
            folder,
            (
                (each.path.relative_to(self.data).as_posix(), each.digit, each.number, part,
                 _digest(each.path))
                for part in PARTS for each in self.recordings[part]
            ),
        )  # fmt: skip


def split_recordings(
    recordings: Sequence[Recording], options: EventOptions
) -> dict[str, list[Recording]]:
    """Return the recordings by part: of each digit a random half to test on."""
    parts: dict[str, list[Recording]] = {part: [] for part in PARTS}
    rng = np.random.default_rng(options.split_seed)
    for digit in range(10):
        of_digit = [recording for recording in recordings if recording.digit == digit]
        drawn = [of_digit[i] for i in rng.permutation(len(of_digit))]
        half = len(drawn) // 2
        held_out = _held_out_count(half, options.development_share)
        parts[TRAIN] += drawn[held_out:half]
        parts[DEVELOPMENT] += drawn[:held_out]
        parts[TEST] += drawn[half:]
    return parts


def split_samples(
    samples: Sequence[SpokenDigit], options: EventOptions
) -> dict[str, list[SpokenDigit]]:
    """Return the samples by part: the file's own, of which some speakers choose the epoch."""
    train = [sample for sample in samples if sample.part == "train"]
    speakers = sorted({sample.speaker for sample in train})
    order = np.random.default_rng([options.split_seed, 1]).permutation(len(speakers))
    held_count = _held_out_count(len(speakers), options.development_share)
    held_out = {speakers[i] for i in order[:held_count]}
    return {
        TRAIN: [sample for sample in train if sample.speaker not in held_out],
        DEVELOPMENT: [sample for sample in train if sample.speaker in held_out],
        TEST: [sample for sample in samples if sample.part == "test"],
    }


def _held_out_count(count: int, share: float) -> int:
    return max(1, round(share * count)) if share else 0


def _without(parts: Mapping[str, Sequence[_T]], left_out: set[object]) -> dict[str, list[_T]]:
    return {part: [x for x in members if x not in left_out] for part, members in parts.items()}


def _problem(read: Callable[[], object]) -> str:
    """Return why something cannot be read; the empty string where it can."""
    try:
        read()
    except (MediaError, OSError) as exc:
        return str(exc)
    return ""


def _read_recording(recording: Recording) -> CameraEvents:
    """Return the events of a recording. Raises MediaError and OSError."""
    events = read_camera_events(recording.path.read_bytes())
    if not len(events.x):
        raise Unusable("it has no events")
    return events


@lru_cache(maxsize=20_000)
def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
