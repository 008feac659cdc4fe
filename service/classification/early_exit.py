"""Answers after fewer time steps: `steps_trace` and `exit_margin`.

The answer after step t is that of the network to the first t time steps of the clip's input, with
the temperature for T = t. It is computed by a run of its own, since attention over time, and other
fusions, let every step see the later ones: a longer run does not contain it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from model.early_exit import exit_schedule
from service.classification.options import Options
from service.errors import Error, Problem
from service.inference.batch_queue import InferenceResult, RunNetwork

if TYPE_CHECKING:
    from model.arrays import Float32Array
    from model.checkpoint import Card

#: Largest T of which every step is traced: the runs have T (T + 1) / 2 steps together.
MAX_TRACED_STEPS = 16


@dataclass(frozen=True)
class StepAnswer:
    """The answer after `steps` time steps: the probabilities of all labels, and in `order` their
    indices, highest first; `ood_score` is None where the card has no reference.

    `order` is by logit: far out of distribution, probabilities can be equal in float32 where logits
    are not.
    """

    steps: int
    probabilities: tuple[float, ...]
    order: tuple[int, ...]
    ood_score: float | None

    @property
    def margin(self) -> float:
        """The highest probability minus the next."""
        first, second = (self.probabilities[index] for index in self.order[:2])
        return first - second


@dataclass(frozen=True)
class EarlyExitResult:
    """The last run, whose answer is returned, with its `inputs` and `steps`, and the answer after
    each run.

    Times of `inference` are those of all runs together.
    """

    inference: InferenceResult
    inputs: Mapping[str, Float32Array]
    steps: int
    trace: tuple[StepAnswer, ...]


def check_traceable(options: Options, steps: int) -> None:
    """Raise Problem INVALID_FIELD where a trace of every step would take too long."""
    if options.steps_trace and options.exit_margin is None and steps > MAX_TRACED_STEPS:
        detail = (
            f"`steps_trace` runs the network once for each of the T = {steps} steps; T must be at "
            f"most {MAX_TRACED_STEPS} (`steps`), or `exit_margin` sent as well."
        )
        raise Problem(Error.INVALID_FIELD, detail, field="steps_trace")


def stops(steps: int, options: Options) -> tuple[int, ...]:
    """Return the numbers of time steps that are run: T alone; 1, 2, 4, … and T for an exit; all
    from 1 to T for a trace alone."""
    if options.exit_margin is not None:
        return exit_schedule(steps)
    return tuple(range(1, steps + 1)) if options.steps_trace else (steps,)


async def run_with_early_exit(
    run: RunNetwork, inputs: Mapping[str, Float32Array], steps: int, card: Card, options: Options
) -> EarlyExitResult:
    """Run until the margin of the probabilities is that of the options, at most for T = `steps`.

    Each run queues by itself, so batches of later ones hold only the clips that go on. Raises what
    `run` raises.
    """
    trace: list[StepAnswer] = []
    queue_s = inference_s = 0.0
    for count in stops(steps, options):
        first = first_steps(inputs, count)
        is_last = count == steps
        explain = options.explain if is_last or options.exit_margin is not None else ()
        result = await run(first, count, explain)
        queue_s, inference_s = queue_s + result.queue_s, inference_s + result.inference_s
        trace.append(_answer(result, card, count))
        if options.exit_margin is not None and trace[-1].margin >= options.exit_margin:
            break
    result = replace(result, queue_s=queue_s, inference_s=inference_s)
    return EarlyExitResult(result, first, count, tuple(trace))


def first_steps(inputs: Mapping[str, Float32Array], count: int) -> dict[str, Float32Array]:
    """Return the first `count` time steps of inputs [T or 1, ...]; a single one is held."""
    return {name: x[:count] for name, x in inputs.items()}


def _answer(result: InferenceResult, card: Card, steps: int) -> StepAnswer:
    from model.calibration import calibrated_by
    from model.out_of_distribution import ood_score

    output = result.output
    scores = ood_score(output, card, steps)
    probabilities = _softmax(calibrated_by(scores, output, card, steps)[0])
    order = np.argsort(-output.logits[0], stable=True)
    score = None if scores is None else float(scores[0])
    return StepAnswer(steps, tuple(probabilities.tolist()), tuple(order.tolist()), score)


def _softmax(logits: Float32Array) -> Float32Array:
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum())
