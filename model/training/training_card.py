"""The network's configuration and the checkpoint card of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from model import checkpoint
from model.checkpoint import Card, Source, Training
from model.config import Config, StreamConfig
from model.encoding import Encoding
from model.training.options import HEADS, TrainOptions
from model.training.task import Task


def network_config(options: TrainOptions) -> Config:
    """Return the configuration of the network that is trained."""
    streams = {
        name: StreamConfig.model_validate(
            {"channels": spec.channels, "size": spec.size, "splitting": options.splitting}
        )
        for name, spec in options.task.specs.items()
    }
    return Config.model_validate(
        {
            "streams": streams,
            "classes": len(options.task.labels),
            "embed_dim": options.embed_dim,
            "heads": HEADS,
            "attention": options.attention if options.has_residuals else None,
            "alignment": options.alignment,
            "alpha": options.alpha,
            "fusion": options.fusion,
        }
    )


def make_card(options: TrainOptions, epochs: int, warnings: Sequence[str] = ()) -> Card:
    """Return the card of a checkpoint after `epochs` epochs, without measurements.

    `warnings` of the training run become notes.
    """
    task = options.task
    optimizer = (
        f"AdamW, learning rate {options.peak_learning_rate:g}, cosine, "
        f"{options.warmup_epochs:g} epochs of warm-up, weight decay {options.weight_decay}"
    )
    loss = f"cross-entropy (label smoothing {options.label_smoothing})"
    if options.has_alignment_loss:
        loss += f" + semantic alignment (temperature {options.temperature})"
    if options.outlier_share:
        loss += f"; {options.outlier_share:g} of the clips are of no class, for equal probabilities"
    notes = {
        "clips_an_epoch": str(options.clips),
        "batch": str(options.batch),
        "optimizer": optimizer,
        "loss": loss,
        **task.card_notes(),
        **_initial_weights(options.init_from),
    }
    return Card(
        name=options.name or task.name,
        version=task.version,
        description=task.description,
        streams=dict(task.specs),
        encoding=cast(Encoding, options.encoding),
        steps=options.steps,
        labels=task.labels,
        config=network_config(options),
        missing_streams=task.missing_streams,
        data=_sources(task, options.init_from),
        training=Training(
            command=options.command, task=task.name, seed=options.seed, epochs=epochs,
            notes=notes,
        ),
        notes=tuple(f"warning of the training: {warning}" for warning in warnings),
    )  # fmt: skip


def _sources(task: Task, init_from: Path | None) -> tuple[Source, ...]:
    """Return the data sets of the task, and those of the weights that a training starts from."""
    own = task.sources()
    names = {source.name for source in own}
    initial = checkpoint.read_card(init_from).data if init_from else ()
    return (*own, *(source for source in initial if source.name not in names))


def _initial_weights(init_from: Path | None) -> dict[str, str]:
    """Return the note on how the weights that a training starts from were trained."""
    if init_from is None:
        return {}
    initial = checkpoint.read_card(init_from)
    if initial.training is None:
        return {"init_from": initial.name}
    extent = f"{initial.training.epochs} epochs, {initial.config.embed_dim} channels"
    return {"init_from": f"{initial.training.command} ({extent})"}
