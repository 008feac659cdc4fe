"""What a training on avdigits is: its options, its network, and the card that tells of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

from model import checkpoint
from model.checkpoint.checkpoint import MOST_SEED, Card, CheckpointError, Source, Training
from model.config import Config, StreamConfig
from model.preprocess.specs import PROFILES, FrameSpec, SpectrogramSpec
from model.training.avdigits import dataset

#: How often a batch has both streams, or one alone: a missing stream is to be survived.
MODES = {"both": 0.2, "visual": 0.6, "audio": 0.2}

#: Least and greatest value of each number among the options.
RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "clips": (1, 1_000_000_000),
    "batch": (2, 10_000),
    "embed_dim": (16, 4096),
    "alpha": (0, 1000),
    "steps": (1, 64),
    "learning_rate": (0, 100),
    "weight_decay": (0, 100),
    "warmup": (0, 100_000),
    "ramp": (1e-6, 1),
    "smoothing": (0, 1),
    "temperature": (1e-3, 1000),
    "synthetic_takes": (0, 10_000),
    "development_clips": (10, 1_000_000),
    "average": (0, 100_000),
    "seed": (0, MOST_SEED),
    "workers": (0, 64),
}
#: Options of the command whose name is another than their field's.
_FLAGS = {"embed_dim": "channels", "begin": "from"}


class OptionsError(ValueError):
    """An option that cannot be trained or measured with: its name, its value, what can be."""


def flag(name: str) -> str:
    """The command's option for a field of TrainOptions."""
    return "--" + _FLAGS.get(name, name).replace("_", "-")


@dataclass(frozen=True)
class TrainOptions:
    """How to train on avdigits.

    `clips` a epoch are drawn anew from an endless set. `learning_rate` is for `batch` clips a
    step and falls by a cosine to a hundredth after `warmup` epochs. `temperature` is that of the
    alignment loss, `smoothing` that of the labels. `steps` is T as served; shorter sequences
    are mixed in, most of them early. `ramp` is the share of the training over which scenes grow
    from easy to hard. `alpha` weighs the cross-modal residuals. `synthetic_takes` of each digit are
    said by espeak-ng and mixed into the real ones; 0 for none. `begin` is a checkpoint to go on
    from, which may have fewer channels.
    `shares` says how often batches have "both" streams, "audio" or "visual" alone; the patch
    splitting and MLP of the streams named in `slow`, and with them the head, learn at a tenth of
    the rate. With `freeze_norms` batch norms keep their running statistics, which are one mean
    over batches with and without each stream: a last part of a training with it makes the
    network answer well with these, alone and together. With `average`, the mean of the weights
    after that many last epochs is a candidate for the best at the end. `development_clips` of the
    held-out speaker and pictures measure each epoch.
    """

    data: Path
    out: Path = Path("runs/avdigits")
    epochs: int = 26
    clips: int = 10_000
    batch: int = 50
    embed_dim: int = 128
    alpha: float = 0.5
    steps: int = 4
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    warmup: float = 0.5
    ramp: float = 0.4
    smoothing: float = 0.1
    temperature: float = 0.07
    synthetic_takes: int = 300
    development_clips: int = 400
    shares: Mapping[str, float] = field(default_factory=lambda: dict(MODES))
    slow: tuple[str, ...] = ()
    freeze_norms: bool = False
    average: int = 0
    seed: int = 0
    resume: bool = False
    begin: Path | None = None
    workers: int = 0
    command: str = "scmrl train avdigits"

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        for name, (least, most) in RANGES.items():
            check_range(name, getattr(self, name), least, most)
        heads = Config.model_fields["heads"].default
        if self.embed_dim % heads:
            raise OptionsError(
                f"--channels {self.embed_dim}: must be a multiple of {heads}, the number of heads"
            )
        if self.batch > self.clips:
            raise OptionsError(f"--batch {self.batch}: is more than --clips {self.clips}")
        if self.average > self.epochs:
            raise OptionsError(f"--average {self.average}: is more than --epochs {self.epochs}")
        if not set(self.shares) <= set(MODES) or not _sum_to_1(list(self.shares.values())):
            shares = ",".join(f"{name}={share:g}" for name, share in self.shares.items())
            known = ", ".join(sorted(MODES))
            raise OptionsError(f"--shares {shares}: must be shares of {known} that sum to 1")
        streams = PROFILES["avdigits"]
        for name in self.slow:
            if name not in streams:
                raise OptionsError(f"--slow {name}: no such stream, there are {', '.join(streams)}")


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raise OptionsError where a value is not from `least` to `most`, or not a number."""
    if not least <= value <= most:
        raise OptionsError(f"{flag(name)} {value}: must be {least:.15g} to {most:.15g}")


def make_folder(option: str, folder: Path) -> None:
    """Make a folder, and find out before hours of work whether it can be written.

    Raises OptionsError naming the option.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise OptionsError(f"{flag(option)} {folder}: {exc.strerror}") from exc


def _sum_to_1(shares: list[float]) -> bool:
    return all(share >= 0 for share in shares) and math.isclose(sum(shares), 1, abs_tol=1e-6)


def check_task(card: Card, folder: Path) -> None:
    """Raise CheckpointError, naming the field, where a checkpoint is none of avdigits."""
    file = folder / checkpoint.CARD
    if card.labels != dataset.LABELS:
        shown = ", ".join(card.labels[:10]) + (", …" if len(card.labels) > 10 else "")
        problem = f"{shown} are those of another task; avdigits has {', '.join(dataset.LABELS)}"
        raise CheckpointError(file, "labels", problem)
    kinds = {name: spec.kind for name, spec in card.streams.items()}
    needed = {name: spec.kind for name, spec in PROFILES["avdigits"].items()}
    if kinds != needed:
        raise CheckpointError(file, "streams", f"{kinds} are no streams of avdigits, {needed}")


def configuration(embed_dim: int, alpha: float) -> Config:
    """The avdigits network: two streams of 48 tokens each."""
    audio, visual = specs()
    return Config(
        streams={
            "audio": StreamConfig(channels=audio.channels, size=audio.size),
            "visual": StreamConfig(channels=visual.channels, size=visual.size),
        },
        classes=10,
        embed_dim=embed_dim,
        alpha=alpha,
    )


def card(options: TrainOptions, epochs: int) -> Card:
    """The card of a checkpoint trained on avdigits; `scmrl evaluate` adds what it measures."""
    audio, visual = specs()
    return Card(
        name="avdigits",
        version="1.0.0",
        description="A handwritten digit, seen while it is heard in English.",
        streams={"audio": audio, "visual": visual},
        encoding="direct",
        steps=options.steps,
        labels=dataset.LABELS,
        config=configuration(options.embed_dim, options.alpha),
        missing_streams=True,
        data=_sources(options),
        training=Training(
            command=options.command,
            seed=options.seed,
            epochs=epochs,
            notes={
                "clips_an_epoch": str(options.clips),
                "batch": str(options.batch),
                "optimizer": f"AdamW, learning rate {options.learning_rate}, cosine, "
                f"{options.warmup:g} epochs of warm-up, weight decay {options.weight_decay}",
                "loss": f"cross-entropy (label smoothing {options.smoothing}) + "
                f"semantic alignment (temperature {options.temperature})",
                "held_out": f"speaker {dataset.HELD_OUT_SPEAKER}, the last "
                f"{dataset.HELD_OUT_PICTURES:.0%} of the pictures of each digit",
            }
            | _begun(options.begin),
        ),
        accuracy=(),
        notes=(),
        sha256="",
    )


def _begun(begin: Path | None) -> dict[str, str]:
    """How the checkpoint was trained that this one goes on from."""
    if begin is None:
        return {}
    before = checkpoint.read_card(begin)
    if before.training is None:
        return {"began_from": before.name}
    told = f"{before.training.epochs} epochs, {before.config.embed_dim} channels"
    return {"began_from": f"{before.training.command} ({told})"}


def _sources(options: TrainOptions) -> tuple[Source, ...]:
    sources = (
        Source(
            name="MNIST",
            what="handwritten digits, 18,000 pictures of its training set "
            "(Y. LeCun, C. Cortes, C. J. C. Burges)",
            licence="CC BY-SA 3.0",
        ),
        Source(
            name="Free Spoken Digit Dataset",
            what="spoken digits: speakers jackson, lucas and nicolas, 50 takes a digit each",
            licence="CC BY-SA 4.0",
        ),
    )
    if not options.synthetic_takes:
        return sources
    synthetic = Source(
        name="espeak-ng voices",
        what=f"synthetic speech made by this project, {options.synthetic_takes} takes a digit",
        licence="MIT, as this project",
    )
    return (*sources, synthetic)


def specs() -> tuple[SpectrogramSpec, FrameSpec]:
    """How the two streams are preprocessed."""
    audio, visual = PROFILES["avdigits"]["audio"], PROFILES["avdigits"]["visual"]
    assert isinstance(audio, SpectrogramSpec)
    assert isinstance(visual, FrameSpec)
    return audio, visual
