"""`scmrl train NAME`: train a network on a task with the paper's losses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from model import allocator, checkpoint
from model.network import SCMRL, Output
from model.network.alignment_loss import alignment_loss
from model.training import run_state
from model.training.batches import Batches
from model.training.epochs import METRICS, Accuracies, EpochMetrics, append, rows
from model.training.net2net import widen
from model.training.optimizer import configure_optimizer
from model.training.options import OptionsError, TrainOptions, make_folder
from model.training.recipe import card, check_task, configuration
from model.training.run_state import RunError, RunState, Weights
from model.training.schedule import Schedule
from model.training.task import BatchPlan, streams_alone

#: Greatest norm of the gradient of all parameters.
MAX_GRADIENT_NORM = 5.0


def train(options: TrainOptions) -> Path:
    """Train, and return the folder of the best checkpoint (`out`/best).

    Writes after each epoch: `out`/last.pt (to resume from), `out`/best, `out`/metrics.csv and
    TensorBoard's events. Ctrl-C ends after the current batch with the best so far.

    Raises before the first epoch: DataError; OptionsError where `out` or `init_from` cannot be
    used; CheckpointError where `init_from` is damaged or of another task; RunError where there is
    no run to resume, or it was started with other settings. Raises OSError where an epoch cannot be
    written.
    """
    trainer = Trainer(options)
    trainer.restore()
    console = Console()
    with SummaryWriter(str(options.out), purge_step=trainer.epoch) as writer:
        try:
            for epoch in range(trainer.epoch, options.epochs):
                metrics = trainer.train_epoch(epoch, console)
                for name, value in metrics.columns().items():
                    writer.add_scalar(name, value, metrics.epoch)
                trainer.save(metrics)
                console.print(str(metrics))
            if options.average:
                accuracies = trainer.average_weights()
                console.print(f"averaged weights  held-out accuracy: {accuracies}")
        except KeyboardInterrupt:
            console.print("interrupted; the best checkpoint so far is saved")
    if not (options.out / "best" / checkpoint.CARD).exists():
        raise KeyboardInterrupt("interrupted before the first epoch ended: nothing was saved")
    return options.out / "best"


def compute_loss(output: Output, labels: Tensor, options: TrainOptions) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch, and the semantic alignment that is a part of it.

    The loss is the cross-entropy of the logits [B, classes] plus the semantic alignment of the
    streams' residuals [T, B, C] (arXiv 2502.12488).
    """  # fmt: skip
    residuals = {name: residual.float() for name, residual in output.residuals.items()}
    alignment = alignment_loss(residuals, labels, options.temperature)
    entropy = cross_entropy(
        output.logits.float(), labels, label_smoothing=options.label_smoothing
    )  # fmt: skip
    return entropy + alignment, alignment


class Trainer:
    """One training run: network, optimizer, data, and the epoch and best score so far."""

    def __init__(self, options: TrainOptions) -> None:
        self.options = options
        self.last = options.out / "last.pt"
        self.saved = _load_state(options, self.last)
        data = options.task.load(options.data)
        self.settings = run_state.settings(options, data.sha256)
        if self.saved:
            run_state.check_same(self.last, self.saved.settings, self.settings)
        make_folder("out", options.out)
        _prepare_process(options.seed)
        self.network = SCMRL(configuration(options))
        self.optimizer = configure_optimizer(self.network, options)
        self.epoch = 0
        self.best = -1.0
        self.last_weights: list[Weights] = []  # of the epochs that are averaged
        self.schedule = Schedule(options, options.clips // options.batch)
        examples = data.training_examples(options.seed, cache=options.out.parent)
        self.batches = Batches(examples, options.batch, self.schedule.plan)
        size = min(50, options.development_clips)
        plan = BatchPlan(tuple(options.task.specs), options.steps)
        development = Batches(data.development_examples(), size, lambda _: plan)
        self.development = [development[i] for i in range(options.development_clips // size)]

    def restore(self) -> None:
        """Load the state of the run to resume, or the initial weights of `init_from`."""
        if self.saved:
            self._load(self.saved)
        elif self.options.init_from:
            _init_from(self.options, self.network)

    def _load(self, state: RunState) -> None:
        try:
            self.network.load_state_dict(state.network)
            self.optimizer.load_state_dict(state.optimizer)
        except (RuntimeError, ValueError, KeyError, TypeError) as exc:
            raise RunError(f"{self.last}: damaged: {exc}") from exc
        self.epoch, self.best = state.epoch, state.best
        self.last_weights = state.last_weights

    def train_epoch(self, epoch: int, console: Console) -> EpochMetrics:
        """Train for one epoch, counted from 0, and measure it."""
        self.network.train()
        if self.options.freeze_norms:
            _freeze_norms(self.network)
        totals = np.zeros(2)
        rate = 0.0
        first = epoch * self.schedule.steps_per_epoch
        loader = self._loader(first)
        with _progress(console) as progress:
            bar = progress.add_task(f"epoch {epoch + 1}/{self.options.epochs}", total=len(loader))
            for step, (inputs, labels) in enumerate(loader, first):
                rate = self.set_learning_rate(step)
                totals += self.train_step(step, inputs, labels)
                progress.advance(bar)
        loss, alignment = totals / self.schedule.steps_per_epoch
        return EpochMetrics(epoch + 1, rate, loss, alignment, self.measure())

    def train_step(
        self, step: int, inputs: dict[str, Tensor], labels: Tensor
    ) -> tuple[float, float]:
        """Take one optimizer step on a batch; return its loss and its semantic alignment."""
        steps = self.schedule.plan(step).steps
        inputs = _repeat(inputs, steps)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.schedule.bfloat16(step)):
            output = self.network(inputs)
        loss, alignment = compute_loss(output, labels, self.options)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
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
        fused = self._accuracy(tuple(self.options.task.specs))
        alone = {name: self._accuracy((name,)) for name in streams_alone(self.options.task)}
        return Accuracies(fused, alone)

    @torch.inference_mode()
    def _accuracy(self, streams: tuple[str, ...]) -> float:
        self.network.eval()
        correct, count = 0, 0
        for inputs, labels in self.development:
            inputs = _repeat({name: inputs[name] for name in streams}, self.options.steps)
            correct += int((self.network(inputs).logits.argmax(1) == labels).sum())
            count += len(labels)
        return correct / count

    def save(self, metrics: EpochMetrics) -> None:
        """Write the epoch: metrics, the best checkpoint, and, last, the state to resume from."""
        self.epoch = metrics.epoch
        append(self.options.out / METRICS, metrics)
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
        if accuracies.score > self.best:
            self.best = accuracies.score
            best = self.options.out / "best"
            checkpoint.save(best, self.network, card(self.options, self.epoch))

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
        return None
    state = run_state.load(last)
    best = options.out / "best" / checkpoint.CARD
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
    torch.set_num_threads(os.cpu_count() or 1)
    cv2.setNumThreads(1)  # before the loader forks: in a fork this call never returns


def _init_from(options: TrainOptions, network: SCMRL) -> None:
    """Load the weights of a checkpoint, which may have fewer channels, into the network."""
    assert options.init_from
    narrow, narrow_card = checkpoint.load(options.init_from)
    check_task(options.task, narrow_card, options.init_from)
    try:
        widen(narrow, network, options.seed)
    except ValueError as exc:
        raise OptionsError(f"--init-from {options.init_from}: {exc}") from exc


def _repeat(inputs: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    """Expand [T or 1, B, C, H, W] to T steps without a copy (direct encoding)."""
    return {name: x.expand(steps, -1, -1, -1, -1) for name, x in inputs.items()}


def _freeze_norms(network: SCMRL) -> None:
    """Let batch norms use their running statistics, and not change them."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
