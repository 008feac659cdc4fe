"""The end of a training: the best epoch is calibrated, and measured on test clips, for its card."""

from __future__ import annotations

from rich.console import Console

from model import checkpoint
from model.training.calibrate import calibrate
from model.training.evaluate import (
    measure_accuracy,
    measure_calibration,
    measure_classes,
    measurements_table,
)
from model.training.evaluation_options import CalibrateOptions
from model.training.evaluator import Evaluator, decode_clips
from model.training.options import TrainOptions
from model.training.task import Data, DataError

#: Decides the clips where there are more than `TrainOptions.test_clips`.
SEED = 7
#: Clips of no class, and known examples, of the calibration: it takes seconds.
EXAMPLES = 240


def calibrate_best(options: TrainOptions, console: Console) -> None:
    """Calibrate the best checkpoint of a run at its T, or print why it cannot be."""
    calibration = CalibrateOptions(
        options.best,
        options.data,
        steps=str(options.steps),
        device=options.device,
        examples=EXAMPLES,
        cache=options.out.parent,
    )
    try:
        calibrate(calibration, console)
    except DataError as exc:
        console.print(f"warning: not calibrated: {exc}", style="yellow", markup=False)


def measure_best(options: TrainOptions, data: Data, console: Console) -> None:
    """Measure the best checkpoint of a run, print a table, and write it into the card."""
    network, card = checkpoint.load(options.best)
    evaluator = Evaluator(options.best, options.device)
    labelled = data.test_clips(options.test_clips, SEED)
    clips = decode_clips(labelled, options.test_clips, evaluator)
    measurements = (
        *measure_accuracy(evaluator, clips, options.out),
        *measure_classes(evaluator, clips),
        *measure_calibration(evaluator, clips, options.out),
    )
    console.print(measurements_table(measurements, evaluator.task.test_set))
    card = card.model_copy(update={"accuracy": measurements})
    checkpoint.save(options.best, network, card)
