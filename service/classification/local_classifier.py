"""Classify with one checkpoint in this process, one clip at a time: `scmrl classify` uses it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from service.classification import pipeline
from service.classification.options import Options
from service.classification.pipeline import Backend, Call
from service.classification.schemas import Classification
from service.classification.upload_fields import InputFiles, check_files
from service.decoding.files import decode
from service.decoding.job import DecodeRequest, DecodeResult
from service.inference.batch_queue import InferenceResult
from service.settings import Settings

if TYPE_CHECKING:
    from model.arrays import Float32Array
    from model.checkpoint import Card
    from model.engine import Engine


class LocalClassifier:
    """A checkpoint's folder, loaded. Raises model.checkpoint.CheckpointError."""

    def __init__(self, folder: Path, device: str = "auto") -> None:
        from model import checkpoint
        from model.engine import Engine

        network, card = checkpoint.load(folder)
        self.card: Card = card
        self.engine: Engine = Engine(network, device=device)
        self._backend = Backend(folder.resolve().name, card, _decode, self._run)
        self._settings = Settings.model_construct()  # the defaults, without the environment

    def classify(self, files: InputFiles, options: Options) -> Classification:
        """Classify one clip. Raises Problem."""
        check_files(files, self._settings, self.card.kinds)
        return asyncio.run(pipeline.classify(files, options, self._backend, Call()))

    async def _run(
        self, inputs: Mapping[str, Float32Array], steps: int, explain: Collection[str]
    ) -> InferenceResult:
        from model.engine.inputs import stack_clips
        from model.engine.outputs import split_to_arrays

        started = time.perf_counter()
        output = self.engine.run(stack_clips([inputs]), steps=steps, explain=explain)
        seconds = time.perf_counter() - started
        (answer,) = split_to_arrays(output, 1)
        return InferenceResult(answer, batch_size=1, queue_s=0.0, inference_s=seconds)


async def _decode(files: InputFiles, request: DecodeRequest) -> DecodeResult:
    return decode(files, request)
