"""The answer after each time step, and clips that stop early."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pytest

from model.arrays import Float32Array
from model.checkpoint import Calibration
from model.config import StreamConfig
from model.engine.inputs import stack_clips
from model.engine.outputs import split_to_arrays
from model.preprocess.specs import FrameSpec, SpectrogramSpec
from service.classification.early_exit import first_steps, stops
from service.classification.local_classifier import LocalClassifier
from service.classification.options import Options
from service.classification.pipeline import Backend, Call, classify_tensors
from service.classification.schemas import Classification
from service.decoding.job import DecodeRequest, DecodeResult
from service.errors import Error, Problem
from service.inference.batch_queue import InferenceResult
from tests.service import checkpoints
from tests.service.checkpoints import CONFIG

SPECS = {
    "audio": SpectrogramSpec(sample_rate=8000, n_fft=256, hop_length=60, size=(32, 32)),
    "visual": FrameSpec(fit="pad", size=(32, 32), frames="spread"),
}
STREAMS = {
    name: StreamConfig(channels=spec.channels, size=spec.size) for name, spec in SPECS.items()
}
#: Probabilities that differ from one T to the next by the temperature as well.
TEMPERATURES = Calibration(temperature={1: 0.5, 4: 1.0, 8: 2.0})


@pytest.fixture(scope="module", params=[1.5, 0.0], ids=["alpha 1.5", "alpha 0"])
def classifier(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> LocalClassifier:
    """A network whose attention over time sees all steps, and one without residuals."""
    config = CONFIG.model_copy(update={"streams": STREAMS, "alpha": request.param})
    folder = checkpoints.save(
        tmp_path_factory.mktemp("early_exit") / "any", config=config, streams=SPECS,
        calibration=TEMPERATURES,
    )  # fmt: skip
    return LocalClassifier(folder, "cpu")


def tensors(steps: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "audio": rng.standard_normal((1, 1, 32, 32)).astype(np.float32),
        "visual": rng.standard_normal((steps, 3, 32, 32)).astype(np.float32),
    }


def ask(classifier: LocalClassifier, values: Mapping[str, Any], **options: Any) -> Classification:
    chosen = Options(attention="none", **options)
    return asyncio.run(classify_tensors(values, chosen, classifier._backend, Call()))


def probabilities(answer: Any) -> dict[str, float]:
    return {each.label: each.probability for each in answer.probabilities}


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_each_step_of_a_trace_is_the_answer_to_the_first_steps_alone(
    classifier: LocalClassifier, steps: int
) -> None:
    values = tensors(steps)
    answer = ask(classifier, values, steps=steps, steps_trace=True)
    assert answer.steps_trace is not None
    assert [each.steps for each in answer.steps_trace] == list(range(1, steps + 1))
    for each in answer.steps_trace:
        shorter = {"audio": values["audio"], "visual": values["visual"][: each.steps]}
        expected = ask(classifier, shorter, steps=each.steps)
        assert probabilities(each) == pytest.approx(probabilities(expected), abs=1e-6)
    assert probabilities(answer.steps_trace[-1]) == probabilities(answer)
    assert probabilities(answer) == probabilities(ask(classifier, values, steps=steps))
    assert (answer.steps, answer.exit, answer.degraded) == (steps, None, False)


@pytest.mark.parametrize(("margin", "after", "run"), [(0.0, 1, 1), (1.0, 6, 13)])
def test_a_clip_stops_where_the_margin_is_reached(
    classifier: LocalClassifier, margin: float, after: int, run: int
) -> None:
    values = tensors(6)
    answer = ask(classifier, values, steps=6, exit_margin=margin)
    assert answer.exit is not None
    assert (answer.steps, answer.exit.early, answer.exit.steps_run) == (after, after < 6, run)
    shorter = {"audio": values["audio"], "visual": values["visual"][:after]}
    expected = ask(classifier, shorter, steps=after)
    assert probabilities(answer) == probabilities(expected)
    assert answer.contributions == expected.contributions
    first, second = sorted(probabilities(answer).values(), reverse=True)[:2]
    assert answer.exit.margin == pytest.approx(first - second)
    assert answer.steps_trace is None


def test_a_margin_in_between_stops_only_some_clips(classifier: LocalClassifier) -> None:
    answers = [
        ask(classifier, tensors(8, seed), steps=8, steps_trace=True, exit_margin=0.3)
        for seed in range(12)
    ]
    assert len({answer.steps for answer in answers}) > 1
    for answer in answers:
        assert answer.exit is not None
        assert answer.steps_trace is not None
        assert [each.steps for each in answer.steps_trace] == [
            step for step in (1, 2, 4, 8) if step <= answer.steps
        ]
        margins = []
        for each in answer.steps_trace:
            first, second = (entry.probability for entry in each.probabilities[:2])
            margins.append(first - second)
        assert all(margin < 0.3 for margin in margins[:-1])
        assert margins[-1] >= 0.3 or answer.steps == 8


def test_an_early_exit_is_not_called_degraded_and_leaves_streams_out_at_its_own_t(
    classifier: LocalClassifier,
) -> None:
    answer = ask(classifier, tensors(4), exit_margin=0.0, contributions="leave_one_out")
    assert (answer.steps, answer.degraded) == (1, False)
    assert answer.leave_one_out is not None
    assert answer.leave_one_out.changes is not None


def test_a_long_trace_is_refused_by_name(classifier: LocalClassifier) -> None:
    with pytest.raises(Problem, match="at most 16") as caught:
        ask(classifier, tensors(17), steps=17, steps_trace=True)
    assert (caught.value.error, caught.value.field) == (Error.INVALID_FIELD, "steps_trace")
    both = ask(classifier, tensors(17), steps=17, steps_trace=True, exit_margin=1.0)
    assert [each.steps for each in both.steps_trace or ()] == [1, 2, 4, 8, 16, 17]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 4)), (16, (1, 2, 4, 8, 16))],
)
def test_an_exit_doubles_the_steps(steps: int, expected: tuple[int, ...]) -> None:
    assert stops(steps, Options(exit_margin=0.5)) == expected
    assert stops(steps, Options()) == (steps,)


def test_a_held_frame_stays_one() -> None:
    inputs = {"audio": np.zeros((1, 2), np.float32), "visual": np.arange(8.0).reshape(4, 2)}
    some = first_steps(inputs, 2)
    assert (len(some["audio"]), some["visual"].tolist()) == (1, [[0, 1], [2, 3]])


def test_each_run_queues_by_itself_and_times_are_those_of_all(classifier: LocalClassifier) -> None:
    runs: list[tuple[int, tuple[str, ...]]] = []

    async def run(
        inputs: Mapping[str, Float32Array], steps: int, explain: Collection[str]
    ) -> InferenceResult:
        runs.append((steps, tuple(explain)))
        output = classifier.engine.run(stack_clips([inputs]), steps=steps, explain=explain)
        (arrays,) = split_to_arrays(output, 1)
        return InferenceResult(arrays, batch_size=1, queue_s=1.0, inference_s=2.0)

    async def decode(files: object, request: DecodeRequest) -> DecodeResult:
        raise AssertionError

    backend = Backend("any", classifier.card, decode, run)
    options = Options(steps_trace=True)
    answer = asyncio.run(classify_tensors(tensors(4), options, backend, Call()))
    assert runs == [(1, ()), (2, ()), (3, ()), (4, ("attention",))]
    assert (answer.timing_ms.queue, answer.timing_ms.inference) == (4000, 8000)
    assert answer.attention
