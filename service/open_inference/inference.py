"""From a request for inference to its answer."""

from __future__ import annotations

from dataclasses import dataclass

from service.classification.options import Options
from service.classification.pipeline import Call
from service.classification.schemas import Classification
from service.classification.served_classifier import Content, ServedClassifier
from service.errors import Problem
from service.inference.models import Checkpoint
from service.open_inference.outputs import check_outputs, output_tensors
from service.open_inference.requests import InferRequest, RequestedOutput, clips_of
from service.open_inference.tensors import Tensor


@dataclass(frozen=True)
class Inference:
    """A checked request: its clips and the outputs that are sent."""

    model: Checkpoint
    clips: list[tuple[Content, Options]]
    outputs: list[RequestedOutput]

    @classmethod
    def of(
        cls, request: InferRequest, model: Checkpoint, classifier: ServedClassifier
    ) -> Inference:
        """Check a request. Raises Problem INVALID_FIELD or TOO_LARGE."""
        outputs = list(check_outputs(request.outputs, model.card))
        clips = clips_of(request, model.card, classifier.settings, model.name)
        return cls(model, clips, outputs)

    async def run(self, classifier: ServedClassifier, call: Call) -> list[Tensor]:
        """Classify all clips and return the outputs.

        Raises the Problem of the first clip that has one: the protocol has no answer for the
        others.
        """
        results = await classifier.classify_clips(self.model, self.clips, call)
        answers: list[Classification] = []
        for number, result in enumerate(results):
            if isinstance(result, Problem):
                raise _of_clip(result, number) if len(results) > 1 else result
            answers.append(result)
        return output_tensors(answers, self.model.card, self.outputs)


def _of_clip(problem: Problem, number: int) -> Problem:
    return Problem(
        problem.error,
        f"Clip {number}: {problem.detail}",
        field=problem.field,
        retry_after_s=problem.retry_after_s,
    )
