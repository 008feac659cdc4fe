"""The table of a study: a row for each measure, a column for each variant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.training.evaluate import all_streams
from model.training.study.estimate import Estimate, estimate
from model.training.study.examiner import CALIBRATED, TOGETHER, Measured
from model.training.study.options import StudyOptions
from model.training.study.sweeps import IN_STEPS
from model.training.study.variants import Variant
from model.training.task import Task

#: Headings of the parts of the table, by the first part of a measure's key.
_PARTS = {
    "development": "development clips",
    "residual": "cross-modal residual r of development clips, before α (0: it is silent)",
    "test": "test clips",
    "gain": "test clips, right with all streams more often than with one",
    "noise": "test clips with noise",
    "steps": "test clips over T",
    "exit": "test clips that stop early",
    "pairs": "two objects, one of them heard",
    "hidden": "deletion test",
    "hidden by class": "deletion test by class activation maps",
    "norms settled": "test clips, norms settled with all streams",
    "norms by mode": "test clips, norms by mode",
    "mode - settled": "norms by mode less those settled with all streams",
    "mode - running": "norms by mode less running ones",
}
_OF_MAPS = {
    "pairs/mass": "map's mass on the object that is heard",
    "pairs/other": "map's mass on it when the other one is heard",
    "pairs/correlation": "correlation of the two maps",
    "pairs/class_mass": "class activation map's mass on the object that is heard",
    "pairs/class_other": "class activation map's mass on it when the other one is heard",
    "pairs/class_correlation": "correlation of the two class activation maps",
    "pairs/heard": "answers that are the object heard",
    "pairs/seen": "answers that are the other one",
    "hidden/mass": "map's mass in the object's box",
    "hidden/area": "box's share of the frame",
    "hidden/drop_top": "true class's probability lost, top 20 % of the map hidden",
    "hidden/drop_random": "the same, random 20 % hidden",
    "hidden by class/mass": "map's mass in the object's box",
    "hidden by class/area": "box's share of the frame",
    "hidden by class/drop_top": "true class's probability lost, top 20 % of the map hidden",
    "hidden by class/drop_random": "the same, random 20 % hidden",
}
#: Prefix of the keys of studies over an axis: `STUDY/POINT/CURVE`, of accuracies or IN_STEPS.
SWEEPS = ("noise/", "steps/", "exit/")
#: Measures that are shown in per cent.
_PER_CENT = ("/accuracy", "/calibration error", "pairs/heard", "pairs/seen")


@dataclass(frozen=True)
class Row:
    """One measure. `key` is that of `Examiner.measure`; `estimates` are by the variant's name."""

    key: str
    part: str
    title: str
    estimates: Mapping[str, Estimate | None]

    @property
    def is_share(self) -> bool:
        """Whether it is shown in per cent."""
        return self.key.removesuffix(CALIBRATED).endswith(_PER_CENT)

    @property
    def is_shown(self) -> bool:
        """Whether it is in the table: all are in the JSON file."""
        part, *conditions, measure = self.key.split("/")
        if part == "test":
            return conditions[0] == "clean" or measure == "accuracy"
        return not measure.startswith("calibration error")


def rows(task: Task, results: Mapping[Variant, Sequence[Measured]]) -> list[Row]:
    """Return the rows of all measures, each compared with that of the first variant."""
    results = {v: [run | _norms_compared(run) for run in runs] for v, runs in results.items()}
    keys = list(dict.fromkeys(key for runs in results.values() for run in runs for key in run))
    ordered = sorted(keys, key=lambda key: list(_PARTS).index(key.partition("/")[0]))
    return [_row(key, task, results) for key in ordered]


def _norms_compared(run: Measured) -> Measured:
    """Return accuracy and cross-entropy by clip with norms by mode less those with other norms."""
    compared: Measured = {}
    for key, values in run.items():
        part, _, rest = key.partition("/")
        if part != "norms by mode" or not rest.endswith(("/accuracy", "/cross-entropy")):
            continue
        if TOGETHER not in rest.split("/"):  # with all streams both are the same
            compared[f"mode - settled/{rest}"] = values - run[f"norms settled/{rest}"]
        compared[f"mode - running/{rest}"] = values - run[f"test/{rest}"]
    return compared


def _row(key: str, task: Task, results: Mapping[Variant, Sequence[Measured]]) -> Row:
    first, *_ = results
    is_difference = key.startswith(("mode - ", "gain/"))
    is_accuracy = key.endswith("/accuracy") and not is_difference
    share = is_accuracy or (key.startswith(SWEEPS) and not key.endswith(IN_STEPS))
    estimates = {}
    for variant, runs in results.items():
        values = [run[key] for run in runs if key in run]
        compared = [run[key] for run in results[first] if key in run]
        is_whole = len(values) == len(runs)
        reference = compared if variant != first and len(compared) == len(values) else None
        estimates[variant.name] = estimate(values, reference, share=share) if is_whole else None
    return Row(key, _PARTS[key.partition("/")[0]], _title(key, task), estimates)


def _title(key: str, task: Task) -> str:
    if key in _OF_MAPS:
        return _OF_MAPS[key]
    if key.startswith("residual/"):
        stream = task.titles[key.removeprefix("residual/")]
        possessive = f"{stream}'" if stream.endswith("s") else f"{stream}'s"
        return f"mean of r in the {possessive} tokens"
    if key.startswith(SWEEPS):
        return key.partition("/")[2]  # the point, and the curve
    _, condition, name, measure = key.removesuffix(CALIBRATED).split("/")
    streams = all_streams(task) if name == TOGETHER else f"{task.titles[name]} alone"
    degraded = "" if condition == "clean" else f", {condition}"
    return f"{measure}, {streams}{degraded}{CALIBRATED if key.endswith(CALIBRATED) else ''}"


def markdown(
    table: Sequence[Row], variants: Sequence[Variant], options: StudyOptions, warning: str = ""
) -> str:
    """Return the table, and that of the differences to the first variant, with command, warning
    and conditions."""
    shown = [row for row in table if row.is_shown]
    lines = [*heading(options, warning), conditions(table, options), ""]
    lines += _lines(shown, variants, _cell)
    first, *others = variants
    if others:
        lines += ["", differences(shown, first, others), ""]
        lines += _lines(shown, others, _difference)
    return "\n".join(lines) + "\n"


def heading(options: StudyOptions, warning: str) -> list[str]:
    """Return the lines before the conditions: the command, and the warning if there is one."""
    return [f"`{options.command}`", "", *([f"> **{warning}**", ""] if warning else [])]


def _lines(
    shown: Sequence[Row],
    variants: Sequence[Variant],
    cell: Callable[[Row, Estimate | None], str],
) -> Iterator[str]:
    """Yield the lines of a table, with a heading before each part."""
    yield "| | " + " | ".join(variant.title for variant in variants) + " |"
    yield "| --- |" + " --- |" * len(variants)
    part = ""
    for row in shown:
        if row.part != part:
            part = row.part
            yield f"| **{part}** |" + " |" * len(variants)
        cells = (cell(row, row.estimates[variant.name]) for variant in variants)
        yield f"| {row.title} | " + " | ".join(cells) + " |"


def conditions(table: Sequence[Row], options: StudyOptions) -> str:
    """Return how the variants were trained and what the intervals mean."""
    seeds = max((e.seeds for row in table for e in row.estimates.values() if e), default=0)
    return (
        f"Task {options.task}. {_trained(options)}; {seeds} "
        f"{'seed' if seeds == 1 else 'seeds'}. ± is half a 95 % interval over clips"
        f"{' and seeds' if seeds > 1 else ''}. Degraded streams, and what is calibrated: with the "
        "temperature of the development clips. The JSON file beside it has the cross-entropy and "
        "calibration error of all rows."
    )


def differences(shown: Sequence[Row], first: Variant, others: Sequence[Variant]) -> str:
    """Return what the table of differences shows, and how many would be marked by chance."""
    compared = [e.difference for row in shown for v in others if (e := row.estimates[v.name])]
    marked = sum(1 for difference in compared if difference and difference.is_sure)
    return (
        f"Differences to {first.title}, on the same clips and from the same start; * marks those "
        f"whose interval does not hold 0. They are {marked} of {len(compared)}; by chance alone "
        f"about {round(0.05 * len(compared))} would be."
    )


def _trained(options: StudyOptions) -> str:
    """Return how each variant was trained."""
    weights = f"the weights of {_shown(options.init_from)}" if options.init_from else "new weights"
    if not options.epochs:
        return f"{weights[0].upper()}{weights[1:]}, without training"
    begins = [weights]
    if options.start_epochs:
        begins.append(f"{options.start_epochs} x {options.clips:,} clips with each stream alone")
    return (
        f"{options.channels} channels, T = {options.steps}. Each variant: "
        + "".join(f"{each}, then " for each in begins)
        + f"{options.epochs} x {options.clips:,} clips, "
        f"{options.together:.0%} of the batches with all streams"
    )


def _shown(folder: Path) -> Path:
    """Return a path as from the current folder, if it is in it."""
    absolute = folder.resolve()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else folder


def _cell(row: Row, value: Estimate | None) -> str:
    if value is None:
        return "–"
    return _number(row, value.value, value.half)


def _difference(row: Row, value: Estimate | None) -> str:
    if value is None or value.difference is None:
        return "–"
    difference = value.difference
    mark = " *" if difference.is_sure else ""
    return f"{_number(row, difference.value, difference.half, '+')}{mark}"


def _number(row: Row, value: float, half: float, sign: str = "") -> str:
    """Return a number with the half width of its interval, a share in per cent."""
    if row.is_share:
        return f"{100 * value:{sign}.1f} ± {100 * half:.1f} %"
    return f"{value:{sign}.3f} ± {half:.3f}"


def numbers(
    table: Sequence[Row], variants: Sequence[Variant], options: StudyOptions
) -> dict[str, Any]:
    """Return the table's numbers for a JSON file."""
    settings = {
        name: str(value) for name, value in asdict(options).items()
        if name not in ("device", "command")
    }  # fmt: skip
    return {
        "command": options.command,
        "settings": settings,
        "variants": [variant.name for variant in variants],
        "rows": [
            {
                "measure": row.key,
                "title": row.title,
                "part": row.part,
                "estimates": {
                    name: None if value is None else asdict(value)
                    for name, value in row.estimates.items()
                },
            }
            for row in table
        ],
    }
