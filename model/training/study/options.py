"""The options of `scmrl study alpha`, and the variants that it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import MAX_SEED, MAX_STEPS
from model.training.options import (
    HEADS,
    MIN_BATCH,
    NO_ATTENTION,
    OptionsError,
    TrainOptions,
    check_ranges,
    option,
)
from model.training.task import Task

#: What follows the alpha of a variant without semantic alignment.
UNALIGNED = "-unaligned"
#: The variant without cross-modal residuals.
NO_RESIDUAL = "none"


@dataclass(frozen=True)
class Variant:
    """One network of the study: `alpha`, and whether it has `alignment` and a `residual` at all."""

    alpha: float
    alignment: bool = True
    residual: bool = True

    @property
    def name(self) -> str:
        """As on the command line and in names of folders: `0.5`, `0.5-unaligned`, `none`."""
        if not self.residual:
            return NO_RESIDUAL
        return f"{self.alpha:g}" + ("" if self.alignment else UNALIGNED)

    @property
    def title(self) -> str:
        """As in tables and figures."""
        if not self.residual:
            return "no residual"
        return f"α {self.alpha:g}" + ("" if self.alignment else ", no alignment")

    @property
    def changes(self) -> Mapping[str, Any]:
        """The fields of TrainOptions that make it."""
        attention = {} if self.residual else {"attention": NO_ATTENTION}
        return {"alpha": self.alpha, "alignment": self.alignment, **attention}

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Return the variant of this name. Raises OptionsError that says what is accepted."""
        if name == NO_RESIDUAL:
            return cls(0.0, alignment=False, residual=False)
        try:
            alpha = float(name.removesuffix(UNALIGNED))
        except ValueError:
            alpha = math.nan
        if not 0 <= alpha <= 1000:
            raise OptionsError(
                f"--variants {name}: must be an alpha of 0 to 1000, one followed by {UNALIGNED}, "
                f"or {NO_RESIDUAL}"
            )
        return cls(alpha, alignment=not name.endswith(UNALIGNED))


@dataclass(frozen=True)
class StudyOptions:
    """How to train and measure the variants of a study of alpha.

    All variants of a seed start from the same weights and see the same clips. With `start_epochs`
    these weights are first trained with each stream alone, where alpha has no effect; otherwise
    they are those of `init_from`, or random.

    With no `epochs`, the variants are `init_from` itself with another alpha, or without a part:
    there is one run of each, with its channels and T.

    `seeds` runs of each variant, with the seeds 0, 1, …; `together` is the probability that a batch
    has all streams, the rest have each stream alone.
    """

    task: str
    data: Path
    out: Path
    variants: str = option(
        "0,0.5,1,1.5,0.5-unaligned,1.5-unaligned,none",
        "Variants, joined with commas: an alpha, ALPHA-unaligned without semantic alignment, none "
        "without cross-modal residuals. The others are compared with the first.",
    )
    seeds: int = option(3, "Runs of each variant, with other seeds.", between=(1, 100))
    start_epochs: int = option(
        8, "Epochs with each stream alone, from which all variants start.", between=(0, 10_000)
    )
    epochs: int = option(
        2,
        "Epochs of each variant; 0: --init-from as it is, with the variant's alpha.",
        between=(0, 10_000),
    )
    clips: int = option(5000, "Clips per epoch.", between=(MIN_BATCH, 1_000_000_000))
    batch: int = option(50, "Clips per batch.", between=(MIN_BATCH, 10_000))
    channels: int = option(64, f"Channels, a multiple of {HEADS}.", between=(16, 4096))
    steps: int = option(2, "Time steps T.", between=(1, MAX_STEPS))
    learning_rate: float = option(1e-3, "Peak learning rate of the variants.", between=(0, 100))
    together: float = option(
        0.6, "Probability that a batch of a variant has all streams.", between=(0, 1)
    )
    development_clips: int = option(
        200, "Development clips: they choose the epoch and the temperature.", between=(20, 100_000)
    )
    test_clips: int = option(300, "Test clips.", between=(10, 100_000))
    pairs: int = option(
        200, "Pictures of two objects, one of which is heard; where a task offers them.",
        between=(2, 100_000),
    )  # fmt: skip
    settle: int = option(
        20, "Batches for statistics of batch norms, settled and by mode.", between=(1, 10_000)
    )
    seed: int = option(7, "Random seed of the test clips.", between=(0, MAX_SEED))
    init_from: Path | None = option(None, "Checkpoint to start from.")
    device: str = "auto"
    command: str = "scmrl study alpha"

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)
        names = [variant.name for variant in self.parsed]
        if len(set(names)) < len(names):
            raise OptionsError(f"--variants {self.variants}: a variant is named twice")
        if not self.epochs and self.init_from is None:
            raise OptionsError("--epochs 0: --init-from must name the checkpoint to measure")

    @property
    def parsed(self) -> tuple[Variant, ...]:
        """The variants. Raises OptionsError."""
        return tuple(Variant.parse(name.strip()) for name in self.variants.split(","))

    def start(self, task: Task, seed: int) -> TrainOptions:
        """Return the training, with each stream alone, that the variants of a seed start from."""
        streams = list(task.specs)
        return self._training(
            task, seed, f"start-{seed}", epochs=self.start_epochs, alpha=0.0,
            init_from=self.init_from,
            modality_dropout=dict.fromkeys(streams, 1 / len(streams)),
        )  # fmt: skip

    def run(self, task: Task, variant: Variant, seed: int) -> TrainOptions:
        """Return the training of a variant with a seed."""
        starts = self.start_epochs and self.epochs
        start = self.start(task, seed).best if starts else self.init_from
        return self._training(
            task, seed, f"{variant.name}-{seed}", epochs=max(1, self.epochs),
            learning_rate=self.learning_rate, init_from=start,
            modality_dropout=self._modality_dropout(task), **variant.changes,
        )  # fmt: skip

    def _modality_dropout(self, task: Task) -> dict[str, float]:
        streams = list(task.specs)
        if not task.missing_streams or len(streams) == 1:
            return {"all": 1.0}
        return {"all": self.together, **dict.fromkeys(streams, (1 - self.together) / len(streams))}

    def _training(self, task: Task, seed: int, folder: str, **changes: Any) -> TrainOptions:
        out = self.out / folder
        return TrainOptions.of(
            task, self.data, out=out, clips=self.clips, batch=self.batch, embed_dim=self.channels,
            steps=self.steps, development_clips=self.development_clips, seed=seed,
            patience=0, test_clips=0, device=self.device, command=self.command,
            resume=(out / "last.pt").exists(), **changes,
        )  # fmt: skip
