"""`scmrl study alpha`: what cross-modal residuals and their alignment gain, by their weight."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console

from model import checkpoint
from model.config import Config
from model.network import SCMRL
from model.training.epochs import METRICS, rows
from model.training.options import OptionsError, TrainOptions, make_folder
from model.training.study import figure, report
from model.training.study.measure import Examiner, Measured
from model.training.study.options import StudyOptions, Variant
from model.training.task import Task, streams_alone
from model.training.tasks import TASKS
from model.training.train import train

#: The files of a study in its folder.
TABLE, NUMBERS, FIGURE = "study.md", "study.json", "study.png"


def study_alpha(options: StudyOptions, console: Console | None = None) -> Path:
    """Train and measure every variant, write table and figure after each, and return the table.

    What a former call has trained or measured is not repeated, an unfinished training goes on.
    Raises OptionsError, DataError, CheckpointError, RunError and OSError.
    """
    console = console or Console()
    make_folder("out", options.out)
    task = TASKS[options.task]().for_data(options.data)
    examiner = Examiner(options, task, task.load(options.data))
    results: dict[Variant, list[Measured]] = {}
    for seed in range(options.seeds if options.epochs else 1):
        if options.start_epochs and options.epochs:
            console.rule(f"seed {seed}: the start")
            _train(options.start(task, seed))
        for variant in options.parsed:
            console.rule(f"seed {seed}: {variant.title}")
            begin = time.process_time()
            run = options.run(task, variant, seed)
            if options.epochs:
                _train(run)
            else:
                _take_over(run, variant)
            trained = time.process_time()
            results.setdefault(variant, []).append(examiner.measure(run.best, run.out, seed))
            seconds = trained - begin, time.process_time() - trained
            console.print(f"CPU seconds: {seconds[0]:.0f} to train, {seconds[1]:.0f} to measure")
            _write(options, task, results)
    return options.out / TABLE


def _train(run: TrainOptions) -> None:
    """Train to the end. Raises KeyboardInterrupt, which `train` answers with what there is."""
    train(run)
    if len(rows(run.out / METRICS, streams_alone(run.task))) < run.epochs:
        raise KeyboardInterrupt


def _take_over(run: TrainOptions, variant: Variant) -> None:
    """Write the checkpoint that a run would start from, with the variant's residuals, untrained.

    Raises OptionsError where it lacks a part of the variant.
    """
    assert run.init_from is not None
    source, card = checkpoint.load(run.init_from)
    config = Config.model_validate(
        {
            **card.config.model_dump(),
            "alpha": variant.alpha,
            "alignment": variant.alignment,
            "attention": card.config.attention if variant.residual else None,
        }
    )
    network, weights = SCMRL(config), source.state_dict()
    has_residual = card.config.attention is not None or not variant.residual
    if not has_residual or not network.state_dict().keys() <= weights.keys():
        raise OptionsError(f"--init-from {run.init_from}: has no weights for {variant.title}")
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    described = card.model_copy(
        update={"config": config, "calibration": None, "domain": None, "accuracy": ()}
    )
    run.best.mkdir(parents=True, exist_ok=True)
    checkpoint.save(run.best, network, described)


def _write(options: StudyOptions, task: Task, results: dict[Variant, list[Measured]]) -> None:
    """Write the table, its numbers, and the figure."""
    table = report.rows(task, results)
    variants = list(results)
    (options.out / TABLE).write_text(report.markdown(table, variants, options))
    numbers = report.numbers(table, variants, options)
    (options.out / NUMBERS).write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    figure.draw(table, variants, options.out / FIGURE)
