"""Training: `scmrl train avdigits` (the paper's losses, a schedule for two cores)."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from model import checkpoint
from model.engine import allocator
from model.network import SCMRL
from model.network.alignment_loss import alignment_loss
from model.training import run_state
from model.training.avdigits import dataset, voices
from model.training.avdigits.dataset import Batches, Digits, Plan, Scenes
from model.training.epochs import METRICS, Accuracies, EpochMetrics, append, rows
from model.training.net2net import widen
from model.training.recipe import (
    OptionsError,
    TrainOptions,
    card,
    check_task,
    configuration,
    make_folder,
    specs,
)
from model.training.run_state import RunError, RunState, Weights

#: What is left of the learning rate for a stream's own weights, and the head's, that go slow.
SLOW = 0.1
#: Share of the training after which all arithmetic is float32.
FLOAT32_FROM = 0.97


def train(options: TrainOptions) -> Path:
    """Train, and return the folder of the best checkpoint (`out`/best).

    Writes after each epoch: `out`/last.pt (to resume from), `out`/best, `out`/metrics.csv and
    TensorBoard's events. Ctrl-C ends after the current batch with what was best so far.
    Raises before training dataset.DataError, OptionsError where `out` or `begin` cannot be used,
    CheckpointError where `begin` is damaged or of another task, and RunError where `resume` finds
    no run, or one that was started with other settings. Raises OSError where an epoch cannot be
    written.
    """
    run = _Run(options)
    run.restore()
    console = Console()
    with SummaryWriter(str(options.out), purge_step=run.epoch) as writer:
        try:
            for epoch in range(run.epoch, options.epochs):
                metrics = run.train_epoch(epoch, console)
                for name, value in asdict(metrics).items():
                    writer.add_scalar(name, value, metrics.epoch)
                run.save(metrics)
                console.print(str(metrics))
            if options.average:
                console.print(f"mean of the last weights  held-out accuracy: {run.conclude()}")
        except KeyboardInterrupt:
            console.print("interrupted; the best epoch so far is kept")
    if not (options.out / "best" / "card.json").exists():
        raise KeyboardInterrupt("interrupted before the first epoch ended: nothing to keep")
    return options.out / "best"


class _Run:
    """The state of one training: network, optimiser, epoch and best score so far."""

    def __init__(self, options: TrainOptions) -> None:
        self.last = options.out / "last.pt"
        self.saved = _saved(options, self.last)
        digits, held_out = dataset.load(options.data)
        self.settings = run_state.settings(options, digits.sha256)
        if self.saved:
            run_state.check_same(self.last, self.saved.settings, self.settings)
        make_folder("out", options.out)
        allocator.keep_memory()
        torch.manual_seed(options.seed)
        torch.set_num_threads(os.cpu_count() or 1)
        cv2.setNumThreads(1)  # before the loader forks: in a fork this call never returns
        self.options = options
        self.config = configuration(options.embed_dim, options.alpha)
        self.network = SCMRL(self.config)
        self.optimizer = _optimizer(self.network, options)
        self.epoch = 0
        self.best = -1.0
        self.last_weights: list[Weights] = []  # of the epochs that are averaged
        self.steps_an_epoch = options.clips // options.batch
        self.batches = Batches(_scenes(digits, options), options.batch, self._plan)
        self.development = _development(held_out, options)

    def restore(self) -> None:
        """Go on where the last finished epoch ended; a fresh run begins at 0."""
        if self.saved:
            self._take_up(self.saved)
        elif self.options.begin:
            _begin_from(self.options.begin, self.network, self.options.seed)

    def _take_up(self, state: RunState) -> None:
        try:
            self.network.load_state_dict(state.network)
            self.optimizer.load_state_dict(state.optimizer)
        except (RuntimeError, ValueError, KeyError, TypeError) as exc:
            raise RunError(f"{self.last}: damaged: {exc}") from exc
        self.epoch, self.best = state.epoch, state.best
        self.last_weights = state.last_weights

    def train_epoch(self, epoch: int, console: Console) -> EpochMetrics:
        self.network.train()
        if self.options.freeze_norms:
            _freeze_norms(self.network)
        totals = np.zeros(2)
        rate = 0.0
        first = epoch * self.steps_an_epoch
        loader = self._loader(first)
        with _progress(console) as progress:
            task = progress.add_task(f"epoch {epoch + 1}/{self.options.epochs}", total=len(loader))
            for step, (inputs, labels) in enumerate(loader, first):
                rate = self._set_rate(step)
                totals += self._step(step, inputs, labels)
                progress.advance(task)
        loss, alignment = totals / self.steps_an_epoch
        return EpochMetrics(epoch + 1, rate, loss, alignment, *self._accuracies())

    def _accuracies(self) -> Accuracies:
        both, audio, visual = ("audio", "visual"), ("audio",), ("visual",)
        return Accuracies(self._accuracy(both), self._accuracy(audio), self._accuracy(visual))

    def _step(self, step: int, inputs: dict[str, Tensor], labels: Tensor) -> tuple[float, float]:
        steps = self._plan(step).steps
        inputs = {name: x.expand(steps, -1, -1, -1, -1) for name, x in inputs.items()}
        # bfloat16 is half again as fast; the last part, in float32, makes up for its rounding.
        coarse = self._done(step) < FLOAT32_FROM
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=coarse):
            output = self.network(inputs)
        residuals = {name: x.float() for name, x in output.residuals.items()}
        alignment = alignment_loss(residuals, labels, self.options.temperature)
        smoothing = self.options.smoothing
        logits = output.logits.float()
        loss = cross_entropy(logits, labels, label_smoothing=smoothing) + alignment
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        return float(loss.detach()), float(alignment.detach())

    def _plan(self, step: int) -> Plan:
        """The streams, time steps and hardness of one batch.

        Short sequences cost less and teach the early layers as much, so they come first.
        """
        rng = np.random.default_rng([self.options.seed, step, 1])
        shares = self.options.shares
        mode = list(shares)[int(rng.choice(len(shares), p=list(shares.values())))]
        streams = tuple(self.config.streams) if mode == "both" else (mode,)
        done, longest = self._done(step), self.options.steps
        lengths: tuple[int, ...]
        if done < 0.8:
            lengths = (1, 2, 2)
        elif done < FLOAT32_FROM:
            lengths = (2, 2, longest)
        else:
            lengths = (2, longest, longest, longest)
        steps = min(int(rng.choice(lengths)), longest)
        hardness = 1.0 if self.options.begin else min(1.0, done / self.options.ramp)
        return Plan(streams, steps, hardness)

    def _done(self, step: int) -> float:
        """Share of the whole training that lies behind."""
        return step / (self.options.epochs * self.steps_an_epoch)

    def _set_rate(self, step: int) -> float:
        options = self.options
        warm = options.warmup * self.steps_an_epoch
        total = options.epochs * self.steps_an_epoch
        if step < warm:
            share = (step + 1) / warm
        else:
            share = 0.01 + 0.495 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * share * group["pace"]
        return options.learning_rate * share

    def _loader(self, first: int) -> DataLoader[tuple[dict[str, Tensor], Tensor]]:
        workers = self.options.workers
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(first, first + self.steps_an_epoch),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            # A forked process shares the data's memory; Python 3.14 would pickle it by default.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )

    @torch.inference_mode()
    def _accuracy(self, streams: tuple[str, ...]) -> float:
        self.network.eval()
        right, count = 0, 0
        for inputs, labels in self.development:
            taken = {
                name: inputs[name].expand(self.options.steps, -1, -1, -1, -1) for name in streams
            }
            right += int((self.network(taken).logits.argmax(1) == labels).sum())
            count += len(labels)
        return right / count

    def save(self, metrics: EpochMetrics) -> None:
        """Write the epoch: metrics, the best checkpoint, and the state to resume from, last."""
        out = self.options.out
        self.epoch = metrics.epoch
        append(out / METRICS, metrics)
        self._keep_best(metrics.accuracies)
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

    def conclude(self) -> Accuracies:
        """Measure the mean of the last epochs' weights, and keep it where it is the best."""
        kept = self.last_weights
        mean = {
            name: (sum(w[name].double() for w in kept) / len(kept)).to(x.dtype)  # type: ignore[union-attr]
            for name, x in kept[0].items()
        }
        self.network.load_state_dict(mean)
        accuracies = self._accuracies()
        self._keep_best(accuracies)
        return accuracies

    def _keep_best(self, accuracies: Accuracies) -> None:
        if accuracies.score > self.best:
            self.best = accuracies.score
            best = self.options.out / "best"
            checkpoint.save(best, self.network, card(self.options, self.epoch))


def _saved(options: TrainOptions, last: Path) -> RunState | None:
    """The state to resume from; None for a fresh run."""
    if not options.resume:
        if last.exists():
            raise OptionsError(
                f"--out {options.out}: holds a run: --resume it or choose another --out"
            )
        return None
    saved = run_state.load(last)
    best = options.out / "best" / checkpoint.CARD
    if not best.is_file():
        raise RunError(f"{best}: is missing, so the run cannot be resumed")
    try:
        rows(options.out / METRICS)
    except ValueError as exc:
        raise RunError(f"{options.out / METRICS}: {exc}") from exc
    return saved


def _begin_from(begin: Path, network: SCMRL, seed: int) -> None:
    """Give the network the weights of a checkpoint, which may have fewer channels."""
    narrow, described = checkpoint.load(begin)
    check_task(described, begin)
    try:
        widen(narrow, network, seed)
    except ValueError as exc:
        raise OptionsError(f"--from {begin}: {exc}") from exc


def _scenes(digits: Digits, options: TrainOptions) -> Scenes:
    """Scenes to train on."""
    synthetic: list[list[Any]] = [[] for _ in range(10)]
    if options.synthetic_takes and voices.available():
        cache = options.out.parent / f"voices-{options.synthetic_takes}.npz"
        takes = voices.speakers(options.synthetic_takes, dataset.RATE, cache)
        for digit, samples in takes:
            synthetic[digit].append(samples)
    elif options.synthetic_takes:
        Console(stderr=True).print("espeak-ng is not installed: real voices alone are trained on")
    spoken = tuple(tuple(takes) for takes in synthetic) if synthetic[0] else ()
    return Scenes(digits, *specs(), seed=options.seed, synthetic=spoken)


def _development(held_out: Digits, options: TrainOptions) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Fixed batches of the first half of what is held out; `scmrl evaluate` takes the other."""
    half = dataset.halves(held_out)[0]
    scenes = Scenes(half, *specs(), seed=1, plain=True)
    size = min(50, options.development_clips)
    batches = Batches(scenes, size, lambda _: Plan(steps=options.steps))
    return [batches[i] for i in range(options.development_clips // size)]


def _optimizer(network: SCMRL, options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW; biases and batch norms are not decayed, and some streams go slow."""
    held = tuple(f"{part}.{name}." for name in options.slow for part in ("patch", "mlp"))
    held += ("head.",) if held else ()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault((parameter.ndim > 1, name.startswith(held)), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": options.weight_decay if decayed else 0.0,
                "pace": SLOW if slow else 1.0,
            }
            for (decayed, slow), parameters in groups.items()
        ],
        lr=options.learning_rate,
    )


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
