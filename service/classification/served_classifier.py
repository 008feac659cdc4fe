"""Classify with the checkpoints of a running service: in its decoding processes and batches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeAlias

from model.media.types import Limits
from service.classification import pipeline
from service.classification.concurrent_clips import classify_concurrently
from service.classification.options import Options
from service.classification.pipeline import Backend, Call
from service.classification.schemas import Classification
from service.classification.upload_fields import InputFiles, check_files
from service.decoding.job import DecodeRequest, DecodeResult
from service.decoding.pool import DecoderPool
from service.errors import Problem
from service.inference.admission import reduce_steps
from service.inference.models import Checkpoint, Requests, Slot
from service.request_record import request_id
from service.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: A clip: its files, or preprocessed tensors [T or 1, C, H, W] by stream.
Content: TypeAlias = "InputFiles | Mapping[str, NDArray[np.float32]]"


@dataclass(frozen=True)
class ServedClassifier:
    """The pipeline behind every protocol of the service."""

    in_flight: Requests
    decoders: DecoderPool
    settings: Settings

    async def classify(self, files: InputFiles, options: Options, call: Call) -> Classification:
        """Classify with the checkpoint `options.model`.

        Raises Problem, for unusable files and for a checkpoint that is unknown, not ready or full.
        """
        with self.in_flight.request(options.model or self.settings.default_model) as model:
            check_files(files, self.settings, model.card.kinds)
            return await self.classify_with(model, files, options, call)

    async def classify_with(
        self, model: Checkpoint, files: InputFiles, options: Options, call: Call
    ) -> Classification:
        """Classify checked files with a checkpoint that is held for this request.

        A protocol whose files take long to arrive holds the checkpoint meanwhile. Raises Problem.
        """
        async with model.slot() as slot:
            return await pipeline.classify(files, options, self._backend(model, slot), call)

    async def classify_clips(
        self,
        model: Checkpoint,
        clips: Sequence[tuple[Content, Options]],
        call: Call,
    ) -> list[Classification | Problem]:
        """Classify several clips of one call, each with an answer or a problem of its own.

        A clip is files, which are checked here, or preprocessed tensors [T or 1, C, H, W] by
        stream. The id of its call is that of `call` with its number, from 0, appended. No more than
        `call_clips_in_flight` are in work at a time.
        """

        calls = [Call(f"{call.id}.{n}", call.record.begin_clip()) for n in range(len(clips))]

        async def classify(number: int) -> Classification:
            request_id.set(calls[number].id)  # of the task, for the log
            content, options = clips[number]
            if not isinstance(content, InputFiles):
                return await self.classify_tensors_with(model, content, options, calls[number])
            check_files(content, self.settings, model.card.kinds)
            return await self.classify_with(model, content, options, calls[number])

        results = await classify_concurrently(
            range(len(clips)),
            classify,
            in_flight=self.settings.call_clips_in_flight,
            deadline_s=self.settings.request_deadline_s,
        )
        for clip_call, result in zip(calls, results, strict=True):
            clip_call.record.problem = result if isinstance(result, Problem) else None
        return results

    async def classify_tensors(
        self, tensors: Mapping[str, NDArray[np.float32]], options: Options, call: Call
    ) -> Classification:
        """Classify preprocessed tensors [T or 1, C, H, W] by stream, without decoding.

        Raises Problem, for unusable tensors and for a checkpoint that is unknown, not ready or
        full.
        """
        with self.in_flight.request(options.model or self.settings.default_model) as model:
            return await self.classify_tensors_with(model, tensors, options, call)

    async def classify_tensors_with(
        self,
        model: Checkpoint,
        tensors: Mapping[str, NDArray[np.float32]],
        options: Options,
        call: Call,
    ) -> Classification:
        """Classify preprocessed tensors with a checkpoint that is held for this request.

        Raises Problem.
        """
        async with model.slot() as slot:
            backend = self._backend(model, slot)
            return await pipeline.classify_tensors(tensors, options, backend, call)

    @cached_property
    def _limits(self) -> Limits:
        return media_limits(self.settings)

    def _backend(self, model: Checkpoint, slot: Slot) -> Backend:
        return Backend(
            name=model.name,
            card=model.card,
            decode=partial(self._decode, slot),
            run=slot.run,
            limits=self._limits,
            reduce_steps=partial(self._reduce_steps, model),
        )

    async def _decode(self, slot: Slot, files: InputFiles, request: DecodeRequest) -> DecodeResult:
        started = time.perf_counter()
        decoded = await self.decoders.decode(files, request)
        slot.decode_wait_s = decoded.wait_in(time.perf_counter() - started)
        return decoded

    def _reduce_steps(self, model: Checkpoint, steps: int) -> int:
        return reduce_steps(steps, self.settings.min_steps_under_load, model.pressure)


def media_limits(settings: Settings) -> Limits:
    """Return the limits of one file, of which some are settings."""
    return Limits(
        max_duration_s=settings.max_duration_s,
        max_pixels=settings.max_pixels,
        max_composed_pixels=settings.max_composed_pixels,
        max_inflated_bytes=settings.max_inflated_bytes,
        max_decoded_pixels=settings.max_decoded_pixels,
        max_demux_cpu_s=settings.max_demux_cpu_s,
        max_frame_shift=settings.max_frame_shift,
        max_frames=max(settings.max_frames, settings.max_steps),  # a picture for each step
        max_channels=settings.max_channels,
        max_sample_rate=settings.max_sample_rate,
        max_events=settings.max_events,
    )
