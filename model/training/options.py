"""The options of `scmrl train`: defaults, ranges and help.

The command line makes its flags from these dataclasses, so this module imports nothing slow.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, get_args

from model.config import MAX_SEED, MAX_STEPS, SCMRL_FUSIONS, Attention, Config, Fusion, Splitting
from model.device import CHOICES as DEVICES
from model.device import DeviceError, check_name
from model.encoding import ENCODINGS
from model.training.task import Task

#: Attention heads of the networks that are trained.
HEADS: int = Config.model_fields["heads"].default
#: Key of the classifier in `TrainOptions.lr_multiplier`; the other keys are names of streams.
HEAD = "head"
#: Key of all streams together in `TrainOptions.modality_dropout`.
ALL = "all"
#: Smallest batch: a batch norm needs more than one clip.
MIN_BATCH = 2
#: No cross-modal residual, in `TrainOptions.attention`.
NO_ATTENTION = "none"


class OptionsError(ValueError):
    """An option is invalid. The message has its name, its value and what is allowed."""


def option(
    default: Any,
    help_text: str,
    *,
    between: tuple[float, float] | None = None,
    choices: tuple[str, ...] | None = None,
    flag: str | None = None,
) -> Any:
    """Return a dataclass field that becomes a flag of the command line.

    Without a default (MISSING) it is required. `between` is the range of a number, `choices` are
    the values that a text may have. `flag` is the flag's name where it is not the field's.
    """
    metadata = {"help": help_text, "between": between, "choices": choices, "flag": flag}
    if isinstance(default, Mapping):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainOptions:
    """How to train a network on a task. `TrainOptions.of` fills in the defaults of the task.

    The task is that of the data (`Task.for_data`), which may decide its labels and streams.

    `learning_rate` is for `learning_rate_batch` clips per optimizer step, and is scaled to those of
    `batch`; after `warmup_epochs` it falls along a cosine to `learning_rate_floor`. `steps` is the
    T of the checkpoint; with `short_sequences` training also uses shorter ones, mostly in early
    epochs. `alpha` is the weight of the cross-modal residuals (the paper's alpha).

    `modality_dropout` maps streams, joined with "+", to the probability that a batch has only
    these; "all" stands for every stream. `lr_multiplier` maps the name of a stream to a factor on
    the learning rate of its patch splitting and MLP, and "head" to that of the classifier.

    With `outlier_share`, a share of the clips are outliers, which belong to no class: the network
    learns to answer such clips with low probabilities.

    With `freeze_norms`, batch norms keep their running statistics, which are averages over batches
    with and without each stream. Use it in a last run, so that the network adapts to these
    statistics, for all streams together and for each alone. With `settle_norms`, an epoch is
    evaluated and saved with the mean statistics of this many batches of all streams, instead of
    running ones, which lag behind the weights.

    With `auto_batch`, `batch` is as large as the number of clips and the free memory allow.
    """

    task: Task
    data: Path
    out: Path = option(MISSING, "Folder for checkpoints, metrics.csv and TensorBoard events.")
    epochs: int = option(26, "Number of epochs.", between=(1, 100_000))
    clips: int = option(10_000, "Clips drawn for each epoch.", between=(1, 1_000_000_000))
    batch: int = option(50, "Clips per batch.", between=(MIN_BATCH, 10_000))
    embed_dim: int = option(
        128,
        f"Channels of the tokens (embed_dim D), a multiple of {HEADS}.",
        between=(16, 4096),
        flag="channels",
    )
    splitting: str = option(
        "deep",
        "Patch splitting: deep, tokens of 16 x 16 pixels; shallow, of 4 x 4.",
        choices=get_args(Splitting),
    )
    attention: str = option(
        "spatial-temporal",
        "Cross-modal attention; none: no cross-modal residuals.",
        choices=(*get_args(Attention), NO_ATTENTION),
    )
    alignment: bool = option(True, "Semantic-alignment transform, and its loss.")
    fusion: str = option(
        "add",
        "How the streams are fused; only add and concat have cross-modal residuals.",
        choices=get_args(Fusion),
    )
    encoding: str = option("direct", "How values become spikes.", choices=ENCODINGS)
    alpha: float = option(0.5, "Weight alpha of the cross-modal residuals.", between=(0, 1000))
    steps: int = option(4, "Time steps T of the checkpoint.", between=(1, MAX_STEPS))
    short_sequences: bool = option(
        True, "Train with fewer time steps than T as well, mostly in early epochs, to save time."
    )
    learning_rate: float = option(3e-3, "Peak learning rate.", between=(0, 100))
    learning_rate_batch: int = option(
        0,
        "Batch size that --learning-rate is for, and scaled from; 0: --batch.",
        between=(0, 1_000_000),
    )
    learning_rate_floor: float = option(
        0.0, "Learning rate at the end; 0: a hundredth of the peak.", between=(0, 100)
    )
    max_gradient_norm: float = option(
        5.0, "Greatest norm of the gradient; 0: not limited.", between=(0, 1e6)
    )
    weight_decay: float = option(1e-2, "Weight decay of AdamW.", between=(0, 100))
    warmup_epochs: float = option(
        0.5, "Epochs of linear learning-rate warm-up.", between=(0, 100_000)
    )
    curriculum: float = option(
        0.4,
        "Fraction of the training during which the augmentation grows to full difficulty; 0: full "
        "from the start.",
        between=(0, 1),
    )
    easy_start: bool = option(
        False,
        "Begin with easy examples with --init-from as well, for a checkpoint of another task.",
    )
    label_smoothing: float = option(0.1, "Label smoothing of the cross-entropy.", between=(0, 1))
    temperature: float = option(
        0.07, "Temperature of the semantic alignment loss.", between=(1e-3, 1000)
    )
    development_clips: int = option(
        400, "Held-out clips on which each epoch is evaluated.", between=(1, 1_000_000)
    )
    test_clips: int = option(
        0,
        "Test clips on which the best epoch is evaluated; 0: none.",
        between=(0, 100_000),
    )
    calibrate: bool = option(
        False,
        "Calibrate the best epoch at the end: fit the temperatures of its T and the "
        "out-of-distribution score, as `scmrl calibrate` does.",
    )
    select_by: str = option(
        "accuracy",
        "How the best epoch is chosen: highest accuracy or lowest loss on held-out clips; last: "
        "the last epoch, or the average.",
        choices=("accuracy", "loss", "last"),
    )
    patience: int = option(
        0, "Stop early after this many epochs without a better one; 0: never.", between=(0, 100_000)
    )
    modality_dropout: Mapping[str, float] = option(
        {ALL: 1.0}, "Probabilities that a batch has only these streams; they sum to 1."
    )
    outlier_share: float = option(
        0.0,
        "Share of the training clips that are outliers, of no class (noise, blank pages, patterns, "
        "other words); the loss moves their probabilities towards equal ones.",
        between=(0, 0.9),
    )
    lr_multiplier: Mapping[str, float] = option(
        {}, "Factors on the learning rate of streams and of the classifier (head)."
    )
    new_towers: Mapping[str, float] = option(
        {},
        "Streams whose tower (patch splitting and MLP) starts from new weights, even with "
        "--init-from, and the initial bias of its batch norms: 1 lets more neurons fire at T = 1.",
    )
    freeze_norms: bool = option(False, "Do not update the running statistics of batch norms.")
    settle_norms: int = option(
        0,
        "Batches for new statistics of the batch norms after each epoch; 0: running statistics.",
        between=(0, 10_000),
    )
    average: int = option(
        0,
        "Average the weights of the last N epochs, and keep the result if it is the best.",
        between=(0, 100_000),
    )
    seed: int = option(
        0, "Random seed; the same seed gives the same weights.", between=(0, MAX_SEED)
    )
    init_from: Path | None = option(
        None, "Checkpoint to initialize the weights from; it may have fewer channels."
    )
    name: str = option("", "Name in the card.")
    device: str = option("auto", f"{DEVICES}.")
    precision: str = option(
        "bfloat16",
        "Precision of the forward pass; auto: bfloat16 if its gradients agree with float32."
        " A device without bfloat16 computes in float32.",
        choices=("auto", "bfloat16", "float32"),
    )
    auto_batch: bool = option(False, "Choose --batch by the number of clips and the free memory.")
    resume: bool = option(False, "Resume the run in --out after its last epoch.")
    workers: int = option(
        0, "Data-loading processes; 0: in the main process, fastest on two cores.", between=(0, 64)
    )
    command: str = "scmrl train"

    @classmethod
    def of(cls, task: Task, data: Path, **changes: Any) -> TrainOptions:
        """Return the default options of a task, with `changes`."""
        defaults = {"out": Path("runs") / task.name, "command": f"scmrl train {task.name}"}
        own = {**defaults, **task.defaults}
        if "batch" in changes:
            own["auto_batch"] = False
        if task.best_folder == ".":  # the run is the checkpoint, and is served by its folder's name
            own["name"] = Path(changes.get("out", own["out"])).resolve().name
        return cls(task=task, data=data, **{**own, **changes})

    @property
    def best(self) -> Path:
        """The folder of the best checkpoint."""
        return self.out / self.task.best_folder

    @property
    def has_residuals(self) -> bool:
        """Whether the network has cross-modal residuals of S-CMRL."""
        return self.fusion in SCMRL_FUSIONS and self.attention != NO_ATTENTION

    @property
    def has_alignment_loss(self) -> bool:
        """Whether the semantic alignment of residuals, of two streams or more, is in the loss."""
        return self.alignment and self.has_residuals and len(self.task.specs) > 1

    @property
    def last(self) -> Path:
        """The folder of the last epoch's checkpoint."""
        return self.out / "last"

    @property
    def peak_learning_rate(self) -> float:
        """The peak learning rate for `batch` clips per optimizer step."""
        scale = self.batch / self.learning_rate_batch if self.learning_rate_batch else 1.0
        return self.learning_rate * scale

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        check_ranges(self)
        try:
            check_name(self.device)
        except DeviceError as exc:
            raise OptionsError(f"--device: {exc}") from None
        if self.embed_dim % HEADS:
            raise OptionsError(
                f"--channels {self.embed_dim}: must be a multiple of {HEADS}, the number of heads"
            )
        batch = MIN_BATCH if self.auto_batch else self.batch
        if batch > self.clips:
            raise OptionsError(f"--batch {batch}: must be at most --clips {self.clips}")
        if self.average > self.epochs:
            raise OptionsError(f"--average {self.average}: must be at most --epochs {self.epochs}")
        self._check_modality_dropout()
        self._check_lr_multiplier()
        self._check_new_towers()

    def batch_streams(self, name: str) -> tuple[str, ...]:
        """Return the streams that an entry of `modality_dropout` names."""
        return tuple(self.task.specs) if name == ALL else tuple(name.split("+"))

    def _check_modality_dropout(self) -> None:
        streams = set(self.task.specs)
        for name in self.modality_dropout:
            parts = self.batch_streams(name)
            if not set(parts) <= streams or len(set(parts)) < len(parts):
                self._refuse_modality_dropout()
        probabilities = list(self.modality_dropout.values())
        if not all(p >= 0 for p in probabilities) or not math.isclose(
            sum(probabilities), 1, abs_tol=1e-6
        ):
            self._refuse_modality_dropout()

    def _refuse_modality_dropout(self) -> None:
        streams = ", ".join([ALL, *self.task.specs])
        raise OptionsError(
            f"--modality-dropout {as_text(self.modality_dropout)}: must be probabilities of "
            f"{streams}, or of streams joined by +, that sum to 1"
        )

    def _check_lr_multiplier(self) -> None:
        streams = [*self.task.specs, HEAD]
        for name, factor in self.lr_multiplier.items():
            if name not in streams:
                raise OptionsError(
                    f"--lr-multiplier {name}: no such stream; choose {', '.join(streams)}"
                )
            if not 0 <= factor <= 100:
                raise OptionsError(f"--lr-multiplier {name}={factor:g}: must be 0 to 100")

    def _check_new_towers(self) -> None:
        streams = list(self.task.specs)
        for name, bias in self.new_towers.items():
            if name not in streams:
                raise OptionsError(
                    f"--new-towers {name}: no such stream; choose {', '.join(streams)}"
                )
            if not -10 <= bias <= 10:
                raise OptionsError(f"--new-towers {name}={bias:g}: must be -10 to 10")


def flag(name: str) -> str:
    """Return the command-line flag of a field of TrainOptions, EvaluateOptions or a task."""
    renamed = {f.name: f.metadata.get("flag") for f in fields(TrainOptions)}
    return "--" + (renamed.get(name) or name).replace("_", "-")


def as_text(numbers: Mapping[str, float]) -> str:
    """Return a mapping as the command line takes it: `all=0.5,audio=0.5`."""
    return ",".join(f"{name}={number:g}" for name, number in numbers.items())


def check_ranges(options: Any) -> None:
    """Raise OptionsError where a number of this dataclass is out of its range or not a number,
    or a text is none of its choices."""
    for option in fields(options):
        bounds = range_of(option)
        value = getattr(options, option.name)
        choices = option.metadata.get("choices")
        if choices and value not in choices:
            raise OptionsError(f"{flag(option.name)} {value}: must be one of {', '.join(choices)}")
        if bounds and not bounds[0] <= value <= bounds[1]:
            allowed = f"{bounds[0]:.15g} to {bounds[1]:.15g}"
            raise OptionsError(f"{flag(option.name)} {value}: must be {allowed}")


def range_of(option: Field[Any]) -> tuple[float, float] | None:
    """Return the least and the greatest value of an option that is a number."""
    between: tuple[float, float] | None = option.metadata.get("between")
    return between


def make_folder(name: str, folder: Path) -> None:
    """Create a folder, and check that it is writable, before hours of work.

    Raises OptionsError, naming the flag of the option `name`, if it has one; also for a path that
    is not in UTF-8, as cards are.
    """
    try:
        str(folder.absolute()).encode()
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except (OSError, UnicodeEncodeError) as exc:
        option = f"{flag(name)} " if name else ""
        shown = os.fsencode(folder).decode(errors="backslashreplace")
        problem = exc.strerror if isinstance(exc, OSError) else "the path is not in UTF-8"
        raise OptionsError(f"{option}{shown}: {problem}") from exc
