"""`scmrl study NAME`: train the variants of a study alike, measure them, and write the results."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from model import checkpoint
from model.network import SCMRL
from model.training.calibrate import check_enough
from model.training.epochs import METRICS, rows
from model.training.options import OptionsError, TrainOptions, make_folder
from model.training.study import curves, figure, report, residuals
from model.training.study.examiner import Examiner, Measured, Run, Values
from model.training.study.measures import measure_alpha, measure_modalities, measure_parts
from model.training.study.options import StudyOptions
from model.training.study.sweeps import measure_exit, measure_noise, measure_steps
from model.training.study.task_choice import task_of
from model.training.study.variants import Variant
from model.training.task import Data, Task, streams_alone
from model.training.train import train

#: The files of a study in its folder.
TABLE, NUMBERS, FIGURE = "study.md", "study.json", "study.png"
#: The warning of a study that trains new weights.
_NEW = (
    "training starts from new weights, whose cross-modal residuals stay silent for some 60 epochs: "
    "variants may all be the same network; --init-from starts from a checkpoint"
)
#: Measurements of a run by study.
_MEASURES = {
    "alpha": measure_alpha,
    "ablation": measure_parts,
    "noise": measure_noise,
    "steps": measure_steps,
    "modalities": measure_modalities,
    "exit": measure_exit,
}
#: The studies that fit temperatures to development clips.
_FIT_TEMPERATURES = ("alpha", "ablation", "modalities")
#: The study whose exits depend on the temperatures of the card.
_CALIBRATED = "exit"


def run_study(options: StudyOptions, console: Console | None = None) -> Path:
    """Train and measure every variant, write table and figure after each, and return the table.

    What a former call has trained or measured is not repeated; an unfinished training is resumed.
    Raises OptionsError, DataError, CheckpointError, RunError and OSError.
    """
    console = console or Console()
    make_folder("out", options.out)
    if options.epochs and options.init_from is None:
        console.print(f"warning: {_NEW}", style="bold yellow", markup=False)
    task = task_of(options)
    variants = options.variants_of(task)
    examiner = Examiner(options, task, _load(options, task), _measure)
    results: dict[Variant, list[Measured]] = {}
    for seed in range(options.seeds if options.epochs else 1):
        if options.start_epochs and options.epochs:
            console.rule(f"seed {seed}: the start")
            _train(options.start(task, seed))
        for variant in variants:
            console.rule(f"seed {seed}: {variant.title}")
            begin = time.process_time()
            run = options.run(task, variant, seed)
            if options.epochs:
                _train(run)
            else:
                _take_over(run, variant, options.study)
            trained = time.process_time()
            measured = examiner.measure(Run(run.best, seed, variant.only), run.out)
            results.setdefault(variant, []).append(measured)
            if silent := residuals.warning(task, {variant: [measured]}):
                console.print(f"warning: {silent}", style="bold red", markup=False)
            seconds = trained - begin, time.process_time() - trained
            console.print(f"CPU seconds: {seconds[0]:.0f} to train, {seconds[1]:.0f} to measure")
            _write(options, task, results)
    return options.out / TABLE


def _load(options: StudyOptions, task: Task) -> Data:
    """Load the data. Where the study trains, check it as a training does, which may leave faulty
    clips out: what is wrong is reported before the first training, not after it."""
    data = task.load(options.data)
    if options.epochs:
        data.training_examples(0, cache=options.out)
        if options.study in _FIT_TEMPERATURES:
            check_enough(data.development_examples(), tuple(task.specs))
    return data


def _measure(examiner: Examiner, run: Run) -> Iterator[tuple[str, Values]]:
    """Measure a run; of studies over an axis that train, also whether its residuals fire."""
    options = examiner.options
    yield from _MEASURES[options.study](examiner, run)
    if options.epochs and options.study in curves.AXES:
        yield from residuals.measure_residuals(examiner, run)


def _train(run: TrainOptions) -> None:
    """Train to the end. Raises KeyboardInterrupt, which `train` answers with what there is."""
    train(run)
    if len(rows(run.out / METRICS, streams_alone(run.task))) < run.epochs:
        raise KeyboardInterrupt


def _take_over(run: TrainOptions, variant: Variant, study: str) -> None:
    """Write the checkpoint that a run would start from, with the variant's residuals, untrained.

    Without its temperatures, which are those of the network as it was: all variants are measured
    with their own logits, and with a temperature that is fitted alike. Raises OptionsError where it
    lacks a part of the variant.
    """
    assert run.init_from is not None
    source, card = checkpoint.load(run.init_from)
    config = variant.configure(card.config)
    network, weights = SCMRL(config), source.state_dict()
    has_residual = config.attention is not None or not variant.has_residual
    shapes = {name: x.shape for name, x in weights.items()}
    is_known = all(shapes.get(name) == x.shape for name, x in network.state_dict().items())
    if not has_residual or not is_known:
        raise OptionsError(f"--init-from {run.init_from}: has no weights for {variant.title}")
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    changes: dict[str, object] = {"config": config, "accuracy": ()}
    if config != card.config or study != _CALIBRATED:
        changes |= {"calibration": None, "domain": None}
    described = card.model_copy(update=changes)
    run.best.mkdir(parents=True, exist_ok=True)
    checkpoint.save(run.best, network, described)


def _write(options: StudyOptions, task: Task, results: dict[Variant, list[Measured]]) -> None:
    """Write the table, its numbers, and the figure."""
    table = report.rows(task, results)
    variants = list(results)
    over_axis = options.study in curves.AXES
    write, draw = (curves.markdown, curves.draw) if over_axis else (report.markdown, figure.draw)
    warning = residuals.warning(task, results)
    (options.out / TABLE).write_text(write(table, variants, options, warning))
    numbers = report.numbers(table, variants, options)
    (options.out / NUMBERS).write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    draw(table, variants, options.out / FIGURE)
