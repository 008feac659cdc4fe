"""The options of `scmrl study`, and the trainings that they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from model.checkpoint import CARD, read_card
from model.config import MAX_SEED, MAX_STEPS
from model.training.options import (
    HEADS,
    MIN_BATCH,
    OptionsError,
    TrainOptions,
    check_ranges,
    flag,
    option,
)
from model.training.study.variants import AS_IS, Variant, parse
from model.training.task import Task

#: The value of --init-from that asks for new weights.
NEW_WEIGHTS = Path("new")
#: Fields whose defaults the weights decide that a study starts from, and how, for the help.
DEFAULTS_BY_START = {
    "init_from": "the task's checkpoint that ships, or new where none does",
    "start_epochs": "0; 8 with new weights",
    "channels": "those of --init-from; 64 with new weights",
    "steps": "T of --init-from; 2 with new weights",
}
#: Studies, what each is about, and the variants that it compares unless others are named.
STUDIES: dict[str, tuple[str, str]] = {
    "alpha": (
        "weights of the cross-modal residuals (the paper's alpha), and residuals without semantic "
        "alignment or none at all",
        "0,0.5,1,1.5,0.5-unaligned,1.5-unaligned,none",
    ),
    "ablation": (
        "S-CMRL without one of its parts, each stream alone, and other papers' fusions",
        "s-cmrl,none,no-alignment,spatial,temporal,concat,weighted,sca,cmci,taaf,cmqka,alone",
    ),
    "noise": ("accuracy under white noise, on each stream and on all", "s-cmrl"),
    "steps": ("accuracy over time steps T", "s-cmrl"),
    "modalities": ("each stream alone and all together", "s-cmrl,alone"),
    "exit": ("accuracy and time steps where clips stop early (`exit_margin`)", "s-cmrl"),
}


@dataclass(frozen=True)
class StudyOptions:
    """How to train and measure the variants of a study: one of STUDIES. `StudyOptions.of` fills in
    the defaults that the start decides.

    All variants of a seed start from the same weights, those of `init_from` or new ones, and see
    the same clips. With `start_epochs` these weights are first trained with each stream alone,
    where alpha has no effect.

    With no `epochs`, the variants are `init_from` itself, as it is, with another alpha, or without
    a part: there is one run of each, with its channels and T.

    `seeds` runs of each variant, with the seeds 0, 1, …; `together` is the probability that a batch
    has all streams, the rest have each stream alone.
    """

    task: str
    data: Path
    out: Path
    study: str = "alpha"
    variants: str = option(
        "",
        "Variants, joined with commas: an alpha; ALPHA-unaligned, without semantic alignment; "
        "s-cmrl; S-CMRL with no-alignment, spatial or temporal attention only, or concat; none, "
        "without cross-modal residuals; weighted, sca, cmci, taaf, cmqka; alone, each stream by "
        "itself; as-is, the checkpoint of --init-from. The others are compared with the first.",
    )
    task_options: str = option(
        "", "Options of the task, those of `scmrl train TASK`, joined with commas, such as "
        "skip-faulty=true. With --epochs 0 those of the checkpoint hold.",
    )  # fmt: skip
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
    snrs: str = option("0,5,10,15,20,25,30", "Signal-to-noise ratios in dB, joined with commas.")
    time_steps: str = option("1,2,3,4,5,6,7,8", "Time steps T to measure at, joined with commas.")
    margins: str = option(
        "0,0.5,0.8,0.9,0.95,0.99", "Exit margins, 0 to 1, joined with commas: a clip stops where "
        "its highest probability exceeds the next by as much.",
    )  # fmt: skip
    most_steps: int = option(
        0, "Time steps T of clips that never stop; 0: the checkpoint's.", between=(0, MAX_STEPS)
    )
    init_from: Path | None = option(
        None,
        f"Checkpoint to start from; {NEW_WEIGHTS}: new weights, whose residuals need long "
        "trainings to fire.",
    )
    device: str = "auto"
    command: str = "scmrl study"

    @classmethod
    def of(cls, task: str, shipped: Path, **values: Any) -> Self:
        """Return the options of a study of a task. Those that are None get their defaults.

        `shipped` holds the checkpoints that ship, each in a folder of its task's name. A study
        starts from that of its task, with its channels and T, since the residuals of new weights
        stay silent in a training as short as that of a study. Raises CheckpointError, OptionsError.
        """
        chosen = {name: value for name, value in values.items() if value is not None}
        start = chosen.pop("init_from", None)
        if start is None and (shipped / task / CARD).is_file():
            start = shipped / task
        if start in (None, NEW_WEIGHTS):
            return cls(task, **chosen)
        card = read_card(start)
        of_card = {"start_epochs": 0, "channels": card.config.embed_dim, "steps": card.steps}
        return cls(task, init_from=start, **(of_card | chosen))

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)
        parse(self._named)
        _whole_numbers("snrs", self.snrs, -100, 100)
        _whole_numbers("time_steps", self.time_steps, 1, MAX_STEPS)
        _ = self.exit_margins
        if not self.epochs and self.init_from is None:
            raise OptionsError("--epochs 0: --init-from must name the checkpoint to measure")

    @property
    def _named(self) -> str:
        """The names of the variants: those of the study, unless others are named."""
        if self.variants:
            return self.variants
        is_measured_as_it_is = not self.epochs and self.study not in ("alpha", "ablation")
        return AS_IS if is_measured_as_it_is else STUDIES[self.study][1]

    @property
    def snrs_db(self) -> tuple[int, ...]:
        """The numbers of `snrs`."""
        return _whole_numbers("snrs", self.snrs, -100, 100)

    @property
    def steps_measured(self) -> tuple[int, ...]:
        """The numbers of `time_steps`."""
        return _whole_numbers("time_steps", self.time_steps, 1, MAX_STEPS)

    @property
    def exit_margins(self) -> tuple[float, ...]:
        """The numbers of `margins`."""
        try:
            numbers = tuple(float(number) for number in self.margins.split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(0 <= number <= 1 for number in numbers):
            raise OptionsError(
                f"--margins {self.margins}: must be numbers, 0 to 1, joined with commas"
            )
        return numbers

    def variants_of(self, task: Task) -> tuple[Variant, ...]:
        """Return the variants, with those of the task's streams. Raises OptionsError."""
        return parse(self._named, task)

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
            modality_dropout=self._modality_dropout(task, variant), **variant.changes,
        )  # fmt: skip

    def _modality_dropout(self, task: Task, variant: Variant) -> dict[str, float]:
        if variant.only:
            return {variant.only: 1.0}
        streams = list(task.specs)
        if not task.missing_streams or len(streams) == 1:
            return {"all": 1.0}
        return {"all": self.together, **dict.fromkeys(streams, (1 - self.together) / len(streams))}

    def _training(self, task: Task, seed: int, folder: str, **changes: Any) -> TrainOptions:
        out = self.out / folder
        return TrainOptions.of(
            task, self.data, out=out, clips=self.clips, batch=self.batch, embed_dim=self.channels,
            steps=self.steps, development_clips=self.development_clips, seed=seed,
            patience=0, test_clips=0, calibrate=False, device=self.device, command=self.command,
            resume=(out / "last.pt").exists(), **changes,
        )  # fmt: skip


def _whole_numbers(name: str, text: str, least: int, most: int) -> tuple[int, ...]:
    """Return the numbers of a text, joined with commas. Raises OptionsError."""
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(least <= number <= most for number in numbers):
        raise OptionsError(
            f"{flag(name)} {text}: must be whole numbers, {least} to {most}, joined with commas"
        )
    return numbers
