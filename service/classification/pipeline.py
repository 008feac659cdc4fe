"""From one clip's files to its answer: decode, preprocess, encode, run, explain, answer.

It is independent of HTTP, queues and processes: every caller (a route, a WebSocket, the command
line) passes a backend to `classify`, which decodes and runs the network.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model.encoding import encode_clip
from model.media.types import Limits
from service.classification.answer import ClassifiedClip, build_answer, explain
from service.classification.early_exit import check_traceable, run_with_early_exit
from service.classification.leave_one_out import check_supported, run_without_each
from service.classification.options import Options
from service.classification.schemas import Classification
from service.classification.tensors import decoded_tensors
from service.classification.upload_fields import InputFiles
from service.decoding.job import DecodeRequest, DecodeResult
from service.inference.batch_queue import RunNetwork
from service.request_record import RequestRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model.checkpoint import Card


@dataclass(frozen=True)
class Backend:
    """A checkpoint, and the functions that decode for it and run it.

    - `name`: by which requests select the checkpoint; `card`: its card.
    - `decode`: decodes and preprocesses files. Raises Problem.
    - `run`: runs the network for T time steps on inputs float32 [T or 1, C, H, W] by stream, and
      returns the output with B = 1 and the seconds that it waited and ran.
    - `limits`: of one file.
    - `reduce_steps`: returns the time steps T to run under load, at most those that it receives;
      called only where the options allow fewer.
    """

    name: str
    card: Card
    decode: Callable[[InputFiles, DecodeRequest], Awaitable[DecodeResult]]
    run: RunNetwork
    limits: Limits = field(default_factory=Limits)
    reduce_steps: Callable[[int], int] = lambda steps: steps


@dataclass(frozen=True)
class Call:
    """One classification: its `id`, and the `record` of its stages."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    record: RequestRecord = field(default_factory=RequestRecord)


async def classify(
    files: InputFiles, options: Options, backend: Backend, call: Call
) -> Classification:
    """Return the answer to `files`, which `upload_fields.check_files` has accepted.

    It has calibrated probabilities, 0 to 1, each stream's term of the logits and, as `options` ask,
    maps, early exits and diagnostics; times are in milliseconds from this call on. Raises
    Problem INVALID_FIELD for options that the checkpoint does not support, and any exception of
    `backend`: Problem where the files cannot be used.
    """
    started = time.perf_counter()
    check_supported(backend.name, backend.card, options)
    steps = _steps(options, backend)
    check_traceable(options, steps)
    request = DecodeRequest.from_card(backend.card, steps, backend.limits, options.canvas)
    with call.record.attempt("decode"):
        decoded = await backend.decode(files, request)
    call.record.add_stages(*_decode_stages(decoded, time.perf_counter() - started))
    return await _classify_decoded(decoded, steps, options, backend, call, started)


async def classify_tensors(
    tensors: Mapping[str, NDArray[np.float32]], options: Options, backend: Backend, call: Call
) -> Classification:
    """Classify preprocessed tensors [T or 1, C, H, W] by stream, as a card's specs make them.

    Nothing is decoded. Streams that are left out are missing, as in a clip. Maps have the indices
    of the tensor's rows and columns as edges. Raises Problem INVALID_FIELD or UNUSABLE, and any
    exception of `backend`.
    """
    started = time.perf_counter()
    check_supported(backend.name, backend.card, options)
    steps = _steps(options, backend)
    check_traceable(options, steps)
    decoded = decoded_tensors(tensors, backend.name, backend.card, steps)
    return await _classify_decoded(decoded, steps, options, backend, call, started)


async def _classify_decoded(
    decoded: DecodeResult, steps: int, options: Options, backend: Backend, call: Call,
    started: float,
) -> Classification:  # fmt: skip
    """Run the network on a decoded clip, and return the answer.

    `started`: time.perf_counter() when the whole classification began.
    """
    card, record = backend.card, call.record
    inputs = encode_clip(decoded.prepared, card.encoding, steps)
    with record.attempt("run"):
        result = await run_with_early_exit(backend.run, inputs, steps, card, options)
    inference = result.inference
    record.notes["steps"] = result.steps
    record.add_stages(("queue", inference.queue_s), ("inference", inference.inference_s))
    without = None
    if options.contributions == "leave_one_out":
        with record.stage("leave_one_out"):
            without = await run_without_each(backend.run, result.inputs, result.steps)
    rates = inference.output.firing_rates
    record.firing_rates = {name: float(rate[0]) for name, rate in rates.items()}
    clip = ClassifiedClip(
        backend.name,
        card,
        options,
        decoded,
        inference,
        result.steps,
        steps,
        result.trace,
        without,
    )
    with record.stage("explain"):
        # Only pictures take longer than the hand-over to a thread.
        explanation = await asyncio.to_thread(explain, clip) if options.canvas else explain(clip)
    total_s = time.perf_counter() - started
    answer = build_answer(clip, explanation, request_id=call.id, total_s=total_s)
    _record_answer(record, answer, decoded)
    return answer


def _steps(options: Options, backend: Backend) -> int:
    """Return T: that of the options, else the checkpoint's, reduced under load where allowed."""
    if options.steps is not None:
        return options.steps
    return backend.reduce_steps(backend.card.steps) if options.degrade else backend.card.steps


def _decode_stages(decoded: DecodeResult, seconds: float) -> tuple[tuple[str, float], ...]:
    """Return the stages of decoding, `seconds` together; the first is the wait for a process."""
    return (
        ("decode_wait", decoded.wait_in(seconds)),
        ("decode", decoded.decode_s),
        ("preprocess", decoded.preprocess_s),
    )


def _record_answer(record: RequestRecord, answer: Classification, decoded: DecodeResult) -> None:
    """Add the answer's steps, times and batch size to the record, for the access log."""
    timing = answer.timing_ms
    record.degraded = answer.degraded
    if answer.degraded:
        record.notes["degraded"] = True
    record.notes.update(
        streams="+".join(decoded.prepared),
        batch=answer.batch_size,
        decode_ms=timing.decode,
        queue_ms=timing.queue,
        inference_ms=timing.inference,
    )
