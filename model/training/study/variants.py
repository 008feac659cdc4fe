"""The networks that a study compares: what each changes in a training, or in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from model.config import SCMRL_FUSIONS, Config, Fusion
from model.training.options import NO_ATTENTION, OptionsError
from model.training.task import Task

#: Suffix of a variant without semantic alignment, after its alpha.
UNALIGNED = "-unaligned"
#: The variant without cross-modal residuals, and a checkpoint as it is.
NO_RESIDUAL, AS_IS = "none", "as-is"
#: Each stream by itself: one variant for each, of the name `STREAM-alone`.
ALONE = "alone"
#: S-CMRL, of which the others of an ablation lack a part or have another in its place.
_WHOLE: Mapping[str, Any] = {"attention": "spatial-temporal", "alignment": True, "fusion": "add"}
#: Titles and changes of the variants that have a name of their own.
_NAMED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    AS_IS: ("as it is", {}),
    "s-cmrl": ("S-CMRL", _WHOLE),
    NO_RESIDUAL: (
        "no residual",
        {"alpha": 0.0, "alignment": False, "attention": NO_ATTENTION, "fusion": "add"},
    ),
    "no-alignment": ("no alignment", {**_WHOLE, "alignment": False}),
    "spatial": ("spatial only", {**_WHOLE, "attention": "spatial"}),
    "temporal": ("temporal only", {**_WHOLE, "attention": "temporal"}),
    "concat": ("concatenation", {**_WHOLE, "fusion": "concat"}),
    "weighted": ("weighted attention", {"fusion": "weighted"}),
    "sca": ("SCA", {"fusion": "sca"}),
    "cmci": ("CMCI", {"fusion": "cmci"}),
    "taaf": ("TAAF", {"fusion": "taaf"}),
    "cmqka": ("CMQKA", {"fusion": "cmqka"}),
}
assert set(get_args(Fusion)) - {"add"} <= set(_NAMED)


@dataclass(frozen=True)
class Variant:
    """One network of a study.

    `name`: as on the command line and in names of folders. `title`: as in tables and figures.
    `changes`: the fields of TrainOptions that make it. `only`: the stream that it is trained and
    measured with, by itself.
    """

    name: str
    title: str = field(compare=False)
    changes: Mapping[str, Any] = field(compare=False)
    only: str | None = None

    @property
    def has_residual(self) -> bool:
        """Whether it must have cross-modal residuals of S-CMRL."""
        has_fusion = self.changes.get("fusion", "add") in SCMRL_FUSIONS
        return bool(self.changes) and has_fusion and self.changes.get("attention") != NO_ATTENTION

    def configure(self, config: Config) -> Config:
        """Return a configuration with the changes of the variant."""
        changed = {**config.model_dump(), **self.changes}
        is_scmrl = changed["fusion"] in SCMRL_FUSIONS
        if changed["attention"] == NO_ATTENTION or not is_scmrl:
            changed["attention"] = None
        return Config.model_validate(changed)


def parse(names: str, task: Task | None = None) -> tuple[Variant, ...]:
    """Return the variants of names that are joined with commas.

    `alone` becomes a variant for each stream of the task; without a task it is left out. Raises
    OptionsError that says what is accepted.
    """
    variants: list[Variant] = []
    for name in (part.strip() for part in names.split(",")):
        if name == ALONE:
            variants += _alone(task) if task else []
        else:
            variants.append(_parse(name))
    named = [variant.name for variant in variants]
    if len(set(named)) < len(named):
        raise OptionsError(f"--variants {names}: a variant is named twice")
    return tuple(variants)


def _alone(task: Task) -> list[Variant]:
    """Return a variant for each stream of a task that has several."""
    if len(task.specs) == 1:
        return []
    changes = {**_NAMED[NO_RESIDUAL][1], "select_by": "last"}
    return [
        Variant(f"{stream}-{ALONE}", f"{task.titles[stream]} alone", changes, stream)
        for stream in task.specs
    ]


def _parse(name: str) -> Variant:
    if name in _NAMED:
        return Variant(name, *_NAMED[name])
    try:
        alpha = float(name.removesuffix(UNALIGNED))
    except ValueError:
        alpha = math.nan
    if not 0 <= alpha <= 1000:
        raise OptionsError(
            f"--variants {name}: must be an alpha of 0 to 1000, one followed by {UNALIGNED}, "
            f"{', '.join(_NAMED)}, or {ALONE}"
        )
    aligned = not name.endswith(UNALIGNED)
    return Variant(
        f"{alpha:g}" + ("" if aligned else UNALIGNED),
        f"α {alpha:g}" + ("" if aligned else ", no alignment"),
        {"alpha": alpha, "alignment": aligned},
    )
