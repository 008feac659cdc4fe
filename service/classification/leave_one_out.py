"""The runs of the network that `contributions=leave_one_out` needs: one without each stream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.classification.options import Options
from service.errors import Error, Problem
from service.inference.batch_queue import RunNetwork

if TYPE_CHECKING:
    from model.arrays import Float32Array
    from model.checkpoint import Card
    from model.output import ArrayOutput


@dataclass(frozen=True)
class WithoutStreams:
    """The outputs with one stream left out, by that stream's name; `reason`: why there are none."""

    outputs: dict[str, ArrayOutput] = field(default_factory=dict)
    reason: str | None = None


def check_supported(name: str, card: Card, options: Options) -> None:
    """Raise Problem INVALID_FIELD where the checkpoint cannot run with a stream left out."""
    if options.contributions != "leave_one_out" or (card.missing_streams and len(card.streams) > 1):
        return
    reason = "does not support missing streams" if len(card.streams) > 1 else "has a single stream"
    detail = (
        f"`contributions` is 'leave_one_out', but the checkpoint {name} {reason}. "
        "It must be tower, the default."
    )
    raise Problem(Error.INVALID_FIELD, detail, field="contributions")


async def run_without_each(
    run: RunNetwork, inputs: Mapping[str, Float32Array], steps: int
) -> WithoutStreams:
    """Run once without each stream of `inputs`, all at the same T. Raises what `run` raises."""
    if len(inputs) < 2:
        used = next(iter(inputs))
        reason = f"only {used} was used, and without it nothing is left to classify"
        return WithoutStreams(reason=reason)
    runs = [
        asyncio.ensure_future(run(_without(inputs, name), steps, ())) for name in inputs
    ]  # fmt: skip
    try:
        results = await asyncio.gather(*runs)
    finally:
        for task in runs:  # those that still wait leave the queue where one failed
            task.cancel()
    outputs = {name: result.output for name, result in zip(inputs, results, strict=True)}
    return WithoutStreams(outputs)


def _without(inputs: Mapping[str, Float32Array], left_out: str) -> dict[str, Float32Array]:
    return {name: values for name, values in inputs.items() if name != left_out}
