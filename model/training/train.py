"""`scmrl train NAME`: train a network on a task with the paper's losses."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from model import allocator, checkpoint
from model.device import DeviceError, resolve_device, supports_bfloat16
from model.engine.inputs import hold
from model.network import SCMRL, Output
from model.network.alignment_loss import alignment_loss
from model.training import final_measurement, run_state
from model.training.batch_norm import freeze_batch_norm, recompute_batch_norm_statistics
from model.training.batch_size import choose_batch_size
from model.training.batches import Batches, collate
from model.training.epochs import METRICS, Accuracies, EpochMetrics, append, rows
from model.training.health import Health
from model.training.initial_weights import keep_new_towers, load_initial_weights
from model.training.optimizer import configure_optimizer
from model.training.options import OptionsError, TrainOptions, make_folder
from model.training.out_of_distribution.outlier_exposure import (
    NO_CLASS,
    with_outliers,
)
from model.training.precision import bfloat16_agrees
from model.training.progress import progress_bar
from model.training.run_state import RunError, RunState, Weights
from model.training.schedule import Schedule
from model.training.task import BatchPlan, streams_alone
from model.training.training_card import make_card, network_config


def train(options: TrainOptions) -> Path:
    """Train, and return the folder of the best checkpoint (`TrainOptions.best`).

    Writes after each epoch: `out`/last.pt (to resume from), the checkpoint of this epoch
    (`TrainOptions.last`) and of the best one, `out`/metrics.csv and TensorBoard's events. Ctrl-C
    ends after the current batch with the best so far. Prints a warning where the training seems to
    lead nowhere, and keeps it in the card.

    Raises before the first epoch: DataError; OptionsError where `out`, `device` or `init_from`
    cannot be used; CheckpointError where `init_from` is damaged or of another task; RunError where
    there is no run to resume, it was started with other settings, or another process writes to
    `out`. Raises OSError where an epoch cannot be written.
    """
    trainer = Trainer(options)
    options = trainer.options
    console = Console()
    trainer.choose_precision(console)  # by the initial weights, so that a resumed run agrees
    trainer.restore(console)
    with SummaryWriter(str(options.out), purge_step=trainer.epoch) as writer:
        try:
            for epoch in range(trainer.epoch, options.epochs):
                if trainer.has_stalled():
                    console.print(f"no better epoch in the last {options.patience}: stopped")
                    break
                metrics = trainer.train_epoch(epoch, console)
                for name, value in metrics.columns().items():
                    writer.add_scalar(name, value, metrics.epoch)
                trainer.save(metrics)
                console.print(str(metrics))
                for warning in trainer.health.new_warnings():
                    console.print(f"warning: {warning}", style="yellow", markup=False)
            if options.average:
                accuracies = trainer.average_weights()
                console.print(f"averaged weights  held-out accuracy: {accuracies}")
        except KeyboardInterrupt:
            console.print("interrupted; the best checkpoint so far is saved")
    if not (options.best / checkpoint.CARD).exists():
        raise KeyboardInterrupt("interrupted before the first epoch ended: nothing was saved")
    if options.calibrate:
        final_measurement.calibrate_best(options, console)
    if options.test_clips:
        final_measurement.measure_best(options, trainer.data, console)
    return options.best


def compute_loss(
    output: Output,
    labels: Tensor,
    options: TrainOptions,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch, and the semantic alignment that is a part of it.

    The loss is the cross-entropy of the logits [B, classes], weighted by class where
    `class_weights` [classes] are not None, plus the semantic alignment of the streams' residuals
    [T, B, C] (arXiv 2502.12488), which is 0 in a training without alignment. For clips of
    NO_CLASS, it is the cross-entropy with equal probabilities of all classes, and no alignment.
    """
    is_known = labels != NO_CLASS
    logits, class_labels = output.logits.float(), labels[is_known]
    residuals = {name: residual.float()[:, is_known] for name, residual in output.residuals.items()}
    aligned = options.has_alignment_loss and len(class_labels) > 0
    alignment = alignment_loss(residuals if aligned else {}, class_labels, options.temperature)
    losses = []  # sums over clips
    if len(class_labels):
        entropy = cross_entropy(
            logits[is_known],
            class_labels,
            weight=class_weights,
            label_smoothing=options.label_smoothing,
        )
        losses.append(entropy * len(class_labels))
    if len(class_labels) < len(labels):
        losses.append(-log_softmax(logits[~is_known], 1).mean(1).sum())
    return sum(losses) / len(labels) + alignment, alignment


class Trainer:
    """One training run: network, optimizer, data, and the epoch and best score so far."""

    def __init__(self, options: TrainOptions) -> None:
        self.last = options.out / "last.pt"
        self.saved = _load_state(options, self.last)
        self.device = _device(options)
        self.data = data = options.task.load(options.data)
        if options.auto_batch:
            options = replace(options, batch=_batch_size(options, self.saved, self.device))
        self.options = options
        self.settings = run_state.settings(options, data.sha256)
        if self.saved:
            run_state.check_same(self.last, self.saved.settings, self.settings)
        make_folder("out", options.out)
        self.claim = run_state.claim(options.out)
        _prepare_process(options.seed)
        self.network = SCMRL(network_config(options)).to(self.device)
        self.optimizer = configure_optimizer(self.network, options)
        self.epoch = self.best_epoch = 0
        self.best = -math.inf
        self.bfloat16 = options.precision != "float32" and supports_bfloat16(self.device)
        self.last_weights: list[Weights] = []  # of the epochs that are averaged
        self.schedule = Schedule(options, options.clips // options.batch)
        examples = with_outliers(options, data.training_examples(options.seed, options.out.parent))
        for folder in (options.best, options.last):
            data.record(folder)
        self.batches = Batches(examples, options.batch, self.schedule.plan, options.encoding)
        all_streams = tuple(options.task.specs)
        easy = BatchPlan(all_streams, options.steps, difficulty=0.0)
        self.settling = Batches(examples, options.batch, lambda _: easy, options.encoding)
        count, size = options.development_clips, min(50, options.development_clips)
        held_out, plan = data.development_examples(), BatchPlan(all_streams, options.steps)
        self.development = [
            collate(held_out, range(first, min(first + size, count)), plan, options.encoding)
            for first in range(0, count, size)
        ]
        weights = data.class_weights
        self.class_weights = None if weights is None else torch.tensor(weights, device=self.device)
        self.health = Health(options.task.labels)

    def restore(self, console: Console | None = None) -> None:
        """Load the state of the run to resume, or the initial weights of `init_from`."""
        if self.saved:
            self._load(self.saved)
            return
        with keep_new_towers(self.network, self.options.new_towers):
            if self.options.init_from:
                quiet = console or Console(quiet=True)
                load_initial_weights(self.options, self.network, quiet, self._first_inputs())

    def choose_precision(self, console: Console) -> None:
        """Choose the precision and print it; auto compares both on the first batch."""
        if not supports_bfloat16(self.device):
            console.print(f"forward pass in float32: {self.device} has no bfloat16 in hardware")
            return
        if self.options.precision == "auto":
            inputs, labels = self._on_device(*self.batches[0])
            steps = self.schedule.plan(0).steps
            self.bfloat16 = bfloat16_agrees(self.network, hold(inputs, steps), labels)
        console.print(f"forward pass in {'bfloat16' if self.bfloat16 else 'float32'}")

    def _first_inputs(self) -> Iterator[dict[str, Tensor]]:
        """Yield the inputs of batches with all streams, as difficult as the training's first."""
        first, options = self.schedule.plan(0), self.options
        plan = BatchPlan(tuple(options.task.specs), options.steps, first.difficulty)
        batches = Batches(self.batches.examples, options.batch, lambda _: plan, options.encoding)
        for index in range(self.schedule.steps_per_epoch):
            yield hold(self._on_device(*batches[index])[0], options.steps)

    def has_stalled(self) -> bool:
        """Return whether `patience` epochs went by without a better one."""
        patience = self.options.patience
        return bool(patience) and self.epoch - self.best_epoch >= patience

    def _on_device(
        self, inputs: dict[str, Tensor], labels: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        moved = {name: x.to(self.device) for name, x in inputs.items()}
        return moved, labels.to(self.device)

    def _load(self, state: RunState) -> None:
        try:
            self.network.load_state_dict(state.network)
            self.optimizer.load_state_dict(state.optimizer)
        except (RuntimeError, ValueError, KeyError, TypeError) as exc:
            raise RunError(f"{self.last}: damaged: {exc}") from exc
        self.epoch, self.best = state.epoch, state.best
        training = checkpoint.read_card(self.options.best).training
        self.best_epoch = min(training.epochs, self.epoch) if training else self.epoch
        self.last_weights = state.last_weights

    def train_epoch(self, epoch: int, console: Console) -> EpochMetrics:
        """Train for one epoch, counted from 0, and measure it."""
        self.network.train()
        if self.options.freeze_norms:
            freeze_batch_norm(self.network)
        totals = np.zeros(2)
        rate = 0.0
        first = epoch * self.schedule.steps_per_epoch
        loader = self._loader(first)
        with progress_bar(console) as progress:
            bar = progress.add_task(f"epoch {epoch + 1}/{self.options.epochs}", total=len(loader))
            for step, (inputs, labels) in enumerate(loader, first):
                rate = self.set_learning_rate(step)
                totals += self.train_step(step, inputs, labels)
                progress.advance(bar)
        loss, alignment = totals / self.schedule.steps_per_epoch
        self._settle_norms(epoch)
        accuracies = self.measure()
        self._check_health(epoch, loss)
        return EpochMetrics(epoch + 1, rate, loss, alignment, accuracies)

    def _settle_norms(self, epoch: int) -> None:
        count = self.options.settle_norms
        if count and not self.options.freeze_norms:
            batches = (self.settling[i][0] for i in range(epoch * count, (epoch + 1) * count))
            steps = self.options.steps
            inputs = (hold(self._on_device(x, torch.empty(0))[0], steps) for x in batches)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                recompute_batch_norm_statistics(self.network, inputs)

    def _check_health(self, epoch: int, loss: float) -> None:
        inputs, labels = self._on_device(*self.development[0])
        settled = self.options.freeze_norms or self.options.settle_norms > 0
        self.health.check(
            self.network, hold(inputs, self.options.steps), labels, loss, settled=settled
        )  # fmt: skip

    def train_step(
        self, step: int, inputs: dict[str, Tensor], labels: Tensor
    ) -> tuple[float, float]:
        """Take one optimizer step on a batch; return its loss and its semantic alignment."""
        steps = self.schedule.plan(step).steps
        inputs, labels = self._on_device(inputs, labels)
        inputs = hold(inputs, steps)
        bfloat16 = self.bfloat16 and self.schedule.bfloat16(step)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            output = self.network(inputs)
        loss, alignment = compute_loss(output, labels, self.options, self.class_weights)
        self.optimizer.zero_grad()
        loss.backward()
        if self.options.max_gradient_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.options.max_gradient_norm)
        self.optimizer.step()
        return float(loss.detach()), float(alignment.detach())

    def set_learning_rate(self, step: int) -> float:
        """Set the learning rate of a step, and return it as it is without a multiplier."""
        rate = self.schedule.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_multiplier"]
        return rate

    def measure(self) -> Accuracies:
        """Measure the network on the development clips, without a change of its weights."""
        fused, loss = self._measure(tuple(self.options.task.specs))
        alone = {name: self._measure((name,)) for name in streams_alone(self.options.task)}
        losses = [loss, *(loss for _, loss in alone.values())]
        accuracies = {name: accuracy for name, (accuracy, _) in alone.items()}
        return Accuracies(fused, accuracies, sum(losses) / len(losses))

    @torch.inference_mode()
    def _measure(self, streams: tuple[str, ...]) -> tuple[float, float]:
        """Return accuracy and cross-entropy with these streams alone."""
        self.network.eval()
        correct, count, loss = 0, 0, 0.0
        for batch in self.development:
            inputs, labels = self._on_device(*batch)
            inputs = hold({name: inputs[name] for name in streams}, self.options.steps)
            logits = self.network(inputs).logits
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(cross_entropy(logits.float(), labels, reduction="sum"))
            count += len(labels)
        return correct / count, loss / count

    def save(self, metrics: EpochMetrics) -> None:
        """Write the epoch: metrics, its checkpoint, the best one, and the state to resume from."""
        self.epoch = metrics.epoch
        append(self.options.out / METRICS, metrics)
        self._save_checkpoint(self.options.last)
        self._save_best(metrics.accuracies)
        if metrics.epoch > self.options.epochs - self.options.average:
            weights = {name: x.clone() for name, x in self.network.state_dict().items()}
            self.last_weights.append(weights)
        RunState(
            network=self.network.state_dict(),
            optimizer=self.optimizer.state_dict(),
            epoch=self.epoch,
            best=self.best,
            last_weights=self.last_weights,
            settings=self.settings,
        ).save(self.last)

    def average_weights(self) -> Accuracies:
        """Measure the mean of the last epochs' weights, and save it where it is the best."""
        last = self.last_weights
        mean = {
            name: (sum(w[name].double() for w in last) / len(last)).to(x.dtype)  # type: ignore[union-attr]
            for name, x in last[0].items()
        }
        self.network.load_state_dict(mean)
        accuracies = self.measure()
        self._save_best(accuracies)
        return accuracies

    def _save_best(self, accuracies: Accuracies) -> None:
        score = {
            "accuracy": accuracies.score,
            "loss": -accuracies.loss,
            "last": max(self.best, 0.0) + 1,
        }[self.options.select_by]
        if score > self.best:
            self.best, self.best_epoch = score, self.epoch
            self._save_checkpoint(self.options.best)

    def _save_checkpoint(self, folder: Path) -> None:
        described = make_card(self.options, self.epoch, self.health.warnings)
        checkpoint.save(folder, self.network, described)

    def _loader(self, first: int) -> DataLoader[tuple[dict[str, Tensor], Tensor]]:
        """Return the batches of one epoch, whose first is batch `first`."""
        workers = self.options.workers
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(first, first + self.schedule.steps_per_epoch),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            # A forked process shares the data's memory; Python 3.14 would pickle it by default.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )


def _load_state(options: TrainOptions, last: Path) -> RunState | None:
    """Return the state to resume from; None for a new run."""
    if not options.resume:
        if last.exists():
            raise OptionsError(
                f"--out {options.out}: contains a run; add --resume or choose another --out"
            )
        if options.init_from:
            checkpoint.read_card(options.init_from)  # a wrong one ends here, not behind the data
        return None
    state = run_state.load(last)
    best = options.best / checkpoint.CARD
    if not best.is_file():
        raise RunError(f"{best}: is missing, so the run cannot be resumed")
    try:
        rows(options.out / METRICS, streams_alone(options.task))
    except ValueError as exc:
        raise RunError(f"{options.out / METRICS}: {exc}") from exc
    return state


def _prepare_process(seed: int) -> None:
    """Seed torch, and set up the process: threads, OpenCV and the allocator."""
    allocator.keep_memory()
    torch.manual_seed(seed)
    # More threads than free cores wait for each other: OMP_NUM_THREADS says how many are free.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(threads) if threads.isdecimal() else os.cpu_count() or 1)
    cv2.setNumThreads(1)  # before the loader forks: in a fork this call never returns


def _device(options: TrainOptions) -> torch.device:
    try:
        return resolve_device(options.device)
    except DeviceError as exc:
        raise OptionsError(f"--device: {exc}") from exc


def _batch_size(options: TrainOptions, saved: RunState | None, device: torch.device) -> int:
    """Return the batch size of the run that is resumed, or the one to choose for a new run."""
    if saved and saved.settings.get("batch", "").isdecimal():
        return int(saved.settings["batch"])
    return choose_batch_size(options, device)
