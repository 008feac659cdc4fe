"""Evaluation: `scmrl evaluate` measures a checkpoint on clips that training never saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model import checkpoint
from model.checkpoint import Card, Measurement
from model.training import plots
from model.training.accuracy import Accuracy, measurement
from model.training.evaluation_options import EvaluateOptions
from model.training.evaluator import (
    EvaluatedClip,
    Evaluator,
    decode_clips,
    decode_within_memory,
    score,
)
from model.training.faithfulness import MAP_KINDS, Faithfulness, faithfulness
from model.training.options import make_folder
from model.training.out_of_distribution.evaluation import measure_ood_detection
from model.training.perturbations import NOISE
from model.training.progress import track
from model.training.reliability import BINS, reliability
from model.training.task import DATA_NOTE, Data, DataError, LabelledClip, Task, streams_alone

#: Levels of white noise that are measured, dB.
SNRS_DB = (-10, -5, 0, 5, 10, 15, 20)
#: Time steps that are measured.
STEPS = tuple(range(1, 9))
#: Clips over which the energy is the mean.
ENERGY_CLIPS = 50
#: Fewest clips of no class that are drawn of each kind, where a folder has few clips to test on.
MADE_CLIPS = 100
#: Distance between the centres of object and frame, in frame sizes, from which on it is off-centre.
OFF_CENTRE = 0.2


def evaluate(options: EvaluateOptions, console: Console | None = None) -> Card:
    """Measure, print a table, draw the figures, and return the card with its measurements.

    The clips are media files in memory, decoded as the service does; noise is added after decoding.
    Attention maps are measured if the network has spatial attention, on clips whose object is
    off-centre.

    Raises CheckpointError where the checkpoint is damaged or its task is unknown, DataError, and
    OptionsError where `out`, or the checkpoint that is to be written, cannot be written.
    """
    console = console or Console()
    evaluator = Evaluator(options.checkpoint, options.device)
    data = load_data(evaluator, options.checkpoint, options.data)
    make_folder("out", options.out)
    if options.write_card:
        make_folder("write_card", options.checkpoint)
    labelled = data.test_clips(options.clips, options.seed)
    clips = decode_clips(labelled, options.clips, evaluator)
    few = clips[: options.curve_clips]
    measurements = [
        *measure_calibration(evaluator, clips, options.out),
        *measure_ood_detection(
            evaluator, few, options.foreign, options.seed, min(MADE_CLIPS, options.curve_clips)
        ),
    ]
    if not options.only_calibration:
        measurements = [
            *measure_accuracy(evaluator, clips, options.out),
            *measure_classes(evaluator, clips),
            *measure_reduced_precisions(evaluator, clips),
            *measure_noise(evaluator, few, options.out),
            *measure_steps(evaluator, few, options.out),
            *measure_energy(evaluator, few[:ENERGY_CLIPS]),
            *measure_maps(evaluator, off_centre(clips, options.attention_clips)),
            *measurements,
        ]
    console.print(measurements_table(measurements, evaluator.task.test_set))
    old = evaluator.card.accuracy
    if options.only_calibration:
        accuracy = _replaced(old, measurements)
    else:
        # What another kind of device has measured at its own precision, of the same weights, stays.
        here = ("float32", *evaluator.engine.reduced_precisions)
        accuracy = (*measurements, *(each for each in old if each.precision not in here))
    card = evaluator.card.model_copy(update={"accuracy": accuracy})
    if options.write_card:
        network, _ = checkpoint.load(options.checkpoint)
        card = checkpoint.save(options.checkpoint, network, card)
    return card


def _replaced(old: Sequence[Measurement], new: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """Return the old measurements that were not measured again, and then the new ones."""
    names = {measured.what for measured in new}
    return (*(measured for measured in old if measured.what not in names), *new)


def load_data(evaluator: Evaluator, folder: Path, data: Path | None) -> Data:
    """Load the data of the checkpoint's task: by default, where the card says that it was.

    Raises DataError that says what it must hold.
    """
    task, training = evaluator.task, evaluator.card.training
    expected = f"{folder}: pass the data of its task, {task.name}, with --data: {task.data_help}"
    noted = training.notes.get(DATA_NOTE) if training else None
    data = data or (Path(noted) if noted and Path(noted).exists() else None)
    if data is None:
        missing = f"{noted}, the data that its card names, is not here. " if noted else ""
        raise DataError(missing + expected)
    try:
        return task.load(data)
    except DataError as exc:
        raise DataError(f"{exc} ({expected})") from exc


def measure_accuracy(
    evaluator: Evaluator, clips: Sequence[EvaluatedClip], out: Path
) -> Iterator[Measurement]:
    """Measure all streams together, each alone and, of three or more, each missing; draw the
    confusion matrix."""
    steps, task = evaluator.card.steps, evaluator.task
    conditions = f"T = {steps}, {task.test_set}"
    predictions = evaluator.predict(clips, steps)
    labels = np.asarray([decoded.truth.label for decoded in clips], np.int64)
    plots.confusion(labels, predictions, evaluator.card.labels, out / "confusion.png")
    together = score(predictions, clips)
    yield measurement(f"accuracy, {all_streams(task)}", together, conditions)
    yield from _measure_parts(predictions, clips, all_streams(task), conditions)
    for stream in streams_alone(task):
        name = f"{task.titles[stream]} alone"
        predictions = evaluator.predict(clips, steps, stream=stream)
        yield measurement(f"accuracy, {name}", score(predictions, clips), conditions)
        yield from _measure_parts(predictions, clips, name, conditions)
    for stream in streams_alone(task) if len(task.specs) > 2 else ():
        others = [name for name in task.specs if name != stream]
        predictions = evaluator.predict_with(clips, steps, others)
        name = f"without {task.titles[stream]}"
        yield measurement(f"accuracy, {name}", score(predictions, clips), conditions)


def _measure_parts(
    predictions: NDArray[np.int64], clips: Sequence[EvaluatedClip], name: str, conditions: str
) -> Iterator[Measurement]:
    """Measure each part of the test set, where it has parts (`LabelledClip.part`)."""
    for part in dict.fromkeys(clip.truth.part for clip in clips if clip.truth.part):
        rows = [row for row, clip in enumerate(clips) if clip.truth.part == part]
        accuracy = score(predictions[rows], [clips[row] for row in rows])
        yield measurement(f"accuracy, {name}, {part}", accuracy, conditions)


def measure_classes(evaluator: Evaluator, clips: Sequence[EvaluatedClip]) -> Iterator[Measurement]:
    """Measure the recall of each class, and their mean, with all streams."""
    steps, task = evaluator.card.steps, evaluator.task
    conditions = f"{all_streams(task)}, T = {steps}, {task.test_set}"
    logits = evaluator.logits(clips, steps)
    labels = np.asarray([decoded.truth.label for decoded in clips], np.int64)
    correct = logits.argmax(1) == labels
    recalls = []
    for index, name in enumerate(evaluator.card.labels):
        of_class = correct[labels == index]
        if len(of_class):
            recall = Accuracy(int(of_class.sum()), len(of_class))
            recalls.append(recall.value)
            yield measurement(f"recall, {name}", recall, conditions)
    yield Measurement(
        what="recall, mean of the classes", value=float(np.mean(recalls)), n=len(clips),
        conditions=conditions,
    )  # fmt: skip


def measure_calibration(
    evaluator: Evaluator, clips: Sequence[EvaluatedClip], out: Path
) -> Iterator[Measurement]:
    """Measure the calibration with all streams and with each alone; draw reliability diagrams."""
    steps, task = evaluator.card.steps, evaluator.task
    labels = np.asarray([decoded.truth.label for decoded in clips], np.int64)
    alone = (None, *streams_alone(task))
    results = {}
    for stream, logits in evaluator.logits_by_streams(clips, steps, alone).items():
        name = all_streams(task) if stream is None else f"{task.titles[stream]} alone"
        result = results[name] = reliability(logits, labels)
        yield Measurement(
            what="expected calibration error" + (f", {name}" if stream else ""),
            value=result.error, n=len(clips),
            conditions=f"{name}, T = {steps}, {task.test_set}, {BINS} bins of confidence; "
            f"perfectly calibrated probabilities have {result.chance:.1%} by chance",
        )  # fmt: skip
    plots.reliability(results, out / "reliability.png")


def measure_reduced_precisions(
    evaluator: Evaluator, clips: Sequence[EvaluatedClip]
) -> Iterator[Measurement]:
    """Measure accuracy at the other precisions of this kind of device: int8 on CPUs, float16 on
    CUDA. One that this machine cannot compute with is omitted; the log has the reason."""
    engine, task = evaluator.engine, evaluator.task
    steps = evaluator.card.steps
    for precision in engine.reduced_precisions:
        if not engine.fuse(precision, steps):
            continue
        conditions = f"T = {steps}, {task.test_set}, {precision}"
        for stream in (None, *streams_alone(task)):
            name = all_streams(task) if stream is None else f"{task.titles[stream]} alone"
            accuracy = evaluator.accuracy(clips, steps, stream=stream)
            float32 = measurement(f"accuracy, {name}, {precision}", accuracy, conditions)
            yield float32.model_copy(update={"precision": precision})
        engine.fuse(steps=steps)


def measure_energy(evaluator: Evaluator, clips: Sequence[EvaluatedClip]) -> Iterator[Measurement]:
    """Measure the energy of the operations that the spikes cause (`model/network/operations.py`),
    over that of a network of real values with the same layers, which runs once."""
    steps, task = evaluator.card.steps, evaluator.task
    spiking = dense = 0.0
    for clip in clips:
        output = evaluator.run([evaluator.prepare(clip.clip, steps)], steps, ("operations",))
        assert output.operations is not None
        layers = output.operations.values()
        spiking += sum(float(layer.energy_pj[0]) for layer in layers) / len(clips)
        dense += sum(layer.dense_energy_pj for layer in layers) / len(clips)
    yield Measurement(
        what="energy over that of a network of real values", value=spiking / dense, n=len(clips),
        conditions=f"{spiking / 1e6:.1f} of {dense / 1e6:.1f} µJ a clip, T = {steps}, 0.9 pJ an "
        f"accumulate, 4.6 pJ a multiply-accumulate, {task.test_set}",
    )  # fmt: skip


def measure_noise(
    evaluator: Evaluator, clips: Sequence[EvaluatedClip], out: Path
) -> list[Measurement]:
    """Measure accuracy over the level of white noise on one stream, for it alone and for all."""
    steps, task = evaluator.card.steps, evaluator.task
    curves: dict[str, list[Accuracy]] = {}
    for snr in track(SNRS_DB, "noise"):
        for stream, spec in task.specs.items():
            if spec.kind not in NOISE:
                continue
            noise, title = NOISE[spec.kind](snr), task.titles[stream]
            together = evaluator.accuracy(clips, steps, noise)
            curves.setdefault(f"{all_streams(task)}, noise on the {title}", []).append(together)
            if stream in streams_alone(task):
                alone = evaluator.accuracy(clips, steps, noise, stream)
                curves.setdefault(f"{title} alone, noise on it", []).append(alone)
    if not curves:  # no stream is of a kind that noise is known for
        return []
    plots.curves("signal-to-noise ratio in dB", SNRS_DB, curves, out / "noise.png")
    zero = SNRS_DB.index(0)
    conditions = f"white noise at 0 dB, T = {steps}, {task.test_set}"
    return [
        measurement(f"accuracy, {name}", curve[zero], conditions) for name, curve in curves.items()
    ]


def measure_steps(
    evaluator: Evaluator, clips: Sequence[EvaluatedClip], out: Path
) -> list[Measurement]:
    """Measure accuracy over T. Clips are decoded again, since T is also the number of frames."""
    task = evaluator.task
    together: list[Accuracy] = []
    alone: dict[str, list[Accuracy]] = {stream: [] for stream in streams_alone(task)}
    for steps in track(STEPS, "time steps"):
        decoded = decode_within_memory((clip.truth for clip in clips), steps, evaluator)
        together.append(evaluator.accuracy(decoded, steps))
        for stream, curve in alone.items():
            curve.append(evaluator.accuracy(decoded, steps, stream=stream))
    curves = {all_streams(task): together}
    curves |= {f"{task.titles[stream]} alone": curve for stream, curve in alone.items()}
    plots.curves("time steps T", STEPS, curves, out / "steps.png")
    return [
        measurement(f"accuracy, {all_streams(task)}, T = {steps}", accuracy, task.test_set)
        for steps, accuracy in zip(STEPS, together, strict=True)
    ]


def off_centre(clips: Sequence[EvaluatedClip], count: int) -> list[EvaluatedClip]:
    """Return at most `count` clips whose object is OFF_CENTRE or more off the centre."""
    return [clip for clip in clips if _offset(clip.truth) >= OFF_CENTRE][:count]


def _offset(truth: LabelledClip) -> float:
    """Return the distance of the box's centre from the frame's, in frame sizes; 0 without a box."""
    if truth.box is None or truth.size is None:
        return 0.0
    height, width = truth.size
    left, top, right, bottom = truth.box
    across = (left + right) / (2 * width) - 0.5
    down = (top + bottom) / (2 * height) - 0.5
    return float(np.hypot(across, down))


def measure_maps(evaluator: Evaluator, clips: Sequence[EvaluatedClip]) -> list[Measurement]:
    """Measure attention and class activation maps of these clips; nothing without clips or maps."""
    stream = evaluator.task.box_stream
    if not clips or stream is None:
        return []
    conditions = f"{stream} map, object off-centre, {evaluator.task.test_set}"
    return [
        Measurement(
            what=f"{kind}: {measure}", value=value, low=None, high=None,
            n=result.count, conditions=conditions,
        )
        for kind, result in faithfulness(evaluator, clips, evaluator.card.steps, stream).items()
        for measure, value in _measures(result).items()
    ]  # fmt: skip


def _measures(result: Faithfulness) -> dict[str, float]:
    """Return the measures of faithfulness by their names in the card."""
    return {
        "map's mass in the object's box": result.mass,
        "box's share of the frame": result.area,
        "mass over share": result.mass / result.area,
        "drop of the true class's probability, top 20 % of the map hidden": result.drop_top,
        "drop of the true class's probability, random 20 % hidden": result.drop_random,
    }


def all_streams(task: Task) -> str:
    """Return the name in reports for all streams together."""
    return {1: "one stream", 2: "both streams"}.get(len(task.specs), "all streams")


def measurements_table(measurements: Sequence[Measurement], test_set: str) -> Table:
    """Return the measurements as a table for the terminal, with the test set in the title alone."""
    title = escape(f"Test clips: {test_set}")
    table = Table(title=title, title_justify="left", title_style="")
    for heading in ("measurement", "value", "95 % interval", "clips", "conditions"):
        table.add_column(heading)
    for m in measurements:
        is_map = m.what.startswith(MAP_KINDS)
        value = f"{m.value:.3f}" if is_map else f"{m.value:.1%}"
        interval = "" if m.low is None or m.high is None else f"{m.low:.1%} to {m.high:.1%}"
        conditions = m.conditions.replace(f", {test_set}", "").replace(test_set, "")
        table.add_row(escape(m.what), value, interval, str(m.n), escape(conditions))
    return table
