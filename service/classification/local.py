"""One clip at a time without a server: what `scmrl classify` runs."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from service.classification import answer
from service.classification.encode import encoded
from service.classification.inputs import InputFiles
from service.classification.schemas import Classification
from service.decoding.files import decode
from service.decoding.job import DecodeRequest
from service.http.form import Options
from service.inference.batch_queue import InferenceResult

if TYPE_CHECKING:
    from model.checkpoint import Card
    from model.engine import Engine


class Classifier:
    """A checkpoint's folder, loaded. Raises model.checkpoint.CheckpointError."""

    def __init__(self, folder: Path, device: str = "auto") -> None:
        from model import checkpoint
        from model.engine import Engine

        network, card = checkpoint.load(folder)
        self.name = folder.resolve().name
        self.card: Card = card
        self.engine: Engine = Engine(network, device=device)

    def classify(self, clip: bytes, options: Options) -> Classification:
        """The answer to one clip. Raises Problem."""
        started = time.perf_counter()
        steps = options.steps or self.card.steps
        decoded = decode(InputFiles(clip=clip), DecodeRequest.from_card(self.card, steps))
        inputs = encoded(decoded.prepared, self.card, steps)
        ready = time.perf_counter()
        output = self.engine.run(
            {name: x.unsqueeze(1) for name, x in inputs.items()},
            steps=steps,
            explain=answer.asked(options),
        )
        inference_s = time.perf_counter() - ready
        ran = InferenceResult(output, batch_size=1, queue_s=0.0, inference_s=inference_s)
        parts = answer.Parts(self.name, self.card, options, decoded, ran, steps)
        explained = answer.explained(parts)
        seconds = time.perf_counter() - started
        return answer.build(parts, explained, request_id=uuid.uuid4().hex, total_s=seconds)
