"""Split clips into parts to train, to choose the epoch, and to test: by group, by class, seeded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from model.training.folder.clip_files import ClipFiles
from model.training.folder.findings import Finding

TRAIN, DEVELOPMENT, TEST = PARTS = ("train", "development", "test")


def split(
    clips: Sequence[ClipFiles], development_share: float, test_share: float, seed: int
) -> list[str]:
    """Return the part of each clip.

    A clip whose table names its part is in it. The parts that no row names are drawn from the
    other clips: whole groups, until each class has its share of clips, at least one. A class keeps
    at least one group to train on.
    """
    drawing = _Drawing(clips, seed)
    named = {clip.split for clip in clips}
    shares = [
        (part, share)
        for part, share in ((TEST, test_share), (DEVELOPMENT, development_share))
        if part not in named
    ]
    for later, (part, share) in enumerate(shares, 1 - len(shares)):
        drawing.draw(part, share, reserve=1 - later)
    return [drawing.part(clip) for clip in clips]


class _Drawing:
    """Groups of clips without a part, in random order, and the part of each."""

    def __init__(self, clips: Sequence[ClipFiles], seed: int) -> None:
        import numpy as np  # here: the command line lists this task without it

        # Clips whose row says `train` may be drawn, to choose the epoch by.
        held_out = [clip for clip in clips if clip.split in (DEVELOPMENT, TEST)]
        self.fixed = {clip.group: clip.split for clip in held_out}
        self.sizes: dict[str, Counter[str]] = {}
        for clip in clips:
            if clip.group not in self.fixed:
                self.sizes.setdefault(clip.group, Counter())[clip.label] += 1
        names = sorted(self.sizes)
        order = np.random.default_rng(seed).permutation(len(names))
        self.free = [names[index] for index in order]
        self.part_of = dict(self.fixed)
        self.totals = sum(self.sizes.values(), Counter[str]())

    def part(self, clip: ClipFiles) -> str:
        """Return the part of a clip: the one its row names, or that of its group."""
        is_named = clip.split in (DEVELOPMENT, TEST) or (clip.split and clip.group in self.fixed)
        return clip.split if is_named else self.part_of.get(clip.group, TRAIN)

    def draw(self, part: str, share: float, reserve: int) -> None:
        """Give a part its share of every class; leave `reserve` groups of each class or more."""
        need = {label: max(1, round(share * n)) for label, n in sorted(self.totals.items())}
        groups_left = Counter(label for group in self.free for label in self.sizes[group])
        for label in sorted(need, key=lambda x: self.totals[x]):
            while need[label] > 0:
                group = self._best(label, need, groups_left, reserve)
                if group is None:
                    break
                self.free.remove(group)
                self.part_of[group] = part
                for name, count in self.sizes[group].items():
                    need[name] -= count
                    groups_left[name] -= 1

    def _best(
        self, label: str, need: dict[str, int], groups_left: Counter[str], reserve: int
    ) -> str | None:
        """Return the group with this class that exceeds the needs least."""
        best, least = None, None
        for group in self.free:
            sizes = self.sizes[group]
            if label not in sizes or any(groups_left[name] <= reserve for name in sizes):
                continue
            excess = sum(max(0, count - max(0, need[name])) for name, count in sizes.items())
            if least is None or excess < least:
                best, least = group, excess
            if excess == 0:
                break
        return best


def too_few(
    clips: Sequence[ClipFiles], parts: Sequence[str], labels: Iterable[str], grouped: bool
) -> list[Finding]:
    """Return a finding for each class that lacks a part, and one where there are not two."""
    findings = []
    labels = list(labels)
    if len(labels) < 2:
        only = f"only class {labels[0]}" if labels else "no class"
        message = f"there is {only}; two classes or more are needed"
        findings.append(Finding("class with too few", "classes", message))
    pairs = list(zip(clips, parts, strict=True))
    for label in labels:
        counts = Counter(part for clip, part in pairs if clip.label == label)
        missing = [part for part in PARTS if not counts[part]]
        named = [part for part in missing if any(clip.split == part for clip in clips)]
        if named:
            message = (
                f"no row of it has split {' or '.join(named)}, as rows of other classes have; name "
                "it in some, or in no row of the table"
            )
            findings.append(Finding("class with too few", label, message))
        elif missing:
            groups = len({clip.group for clip in clips if clip.label == label})
            noun = "groups" if grouped else "clips"
            message = (
                f"has {groups} {noun if groups != 1 else noun[:-1]}, and none is left to "
                f"{' or '.join(_PURPOSES[part] for part in missing)}; 3 {noun} or more are needed"
            )
            findings.append(Finding("class with too few", label, message))
    return findings


_PURPOSES = {TRAIN: "train on", DEVELOPMENT: "choose the epoch by", TEST: "test on"}
