"""Examples of the task mnistdvs-ntidigits: pairs of a recording and a sample of a digit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.arrays import Float32Array
from model.media.events.types import CameraEvents, ChannelEvents
from model.media.types import MediaError
from model.preprocess.prepare import prepare
from model.preprocess.specs import EventFrameSpec, Spec
from model.training.folder.examples import turn_order
from model.training.paper.mnist_dvs import Recording
from model.training.paper.ntidigits import SpokenDigit
from model.training.task import BatchPlan, DataError

#: Zeros around a frame of counts, from which the published training crops at random.
PADDING = 4


@dataclass(frozen=True)
class EventPair:
    """A recording and a sample of the same digit."""

    recording: Recording
    sample: SpokenDigit


@dataclass(frozen=True)
class EventExamples:
    """Pairs to train on, each once in another order each turn, or pairs in their order.

    To train on, frames of the camera are cropped at random from ones with zeros around them, as
    published, and counted frames are kept in memory.
    """

    pairs: Sequence[EventPair]
    specs: Mapping[str, Spec]
    read: Callable[[str, EventPair], CameraEvents | ChannelEvents]
    seed: int = 0
    copies: int = 0
    augment: bool = False
    cached: dict[tuple[object, int], NDArray[Any]] = field(default_factory=dict)

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, Float32Array], int]:
        """Return tensors [T, C, H, W] of the plan's streams, and the digit."""
        turn, number = divmod(index, len(self.pairs))
        if self.augment:
            number = int(turn_order(len(self.pairs), self.seed, turn)[number])
        pair = self.pairs[number]
        streams = {}
        for name in plan.streams:
            spec = self.specs[name]
            streams[name] = self._tensor(name, spec, pair, plan.steps)
            if self.augment and isinstance(spec, EventFrameSpec):
                reach = round(PADDING * plan.difficulty)
                rng = self._generator(index, number)
                streams[name] = shift_frames(streams[name], spec, rng, reach)
        return streams, pair.sample.digit

    def _tensor(self, name: str, spec: Spec, pair: EventPair, steps: int) -> Float32Array:
        """Return the tensor of one stream of a pair. Raises DataError where it cannot be read."""
        is_camera = isinstance(spec, EventFrameSpec)
        key = (pair.recording if is_camera else pair.sample, steps)
        tensor = self.cached.get(key)
        if tensor is None:
            try:
                events = {name: self.read(name, pair)}
                tensor = prepare({name: spec}, None, None, steps, events)[name].tensor
            except (MediaError, OSError) as exc:
                raise DataError(f"{pair.recording.path}, {pair.sample.name}: {exc}") from exc
            if isinstance(spec, EventFrameSpec):  # 16 bits a count: 5,000 at T = 16 take 0.25 GB
                tensor = np.rint(tensor * spec.std + spec.mean).astype(np.uint16)
            if self.augment:
                self.cached[key] = tensor
        if isinstance(spec, EventFrameSpec):
            tensor = (tensor - np.float32(spec.mean)) / np.float32(spec.std)
        return np.asarray(tensor, np.float32)

    def _generator(self, index: int, number: int) -> np.random.Generator:
        """Return the generator of an example, or of one of the versions of its pair."""
        rng = np.random.default_rng([self.seed, index, 3])
        if not self.copies:
            return rng
        return np.random.default_rng([self.seed, number, int(rng.integers(self.copies))])


def shift_frames(
    tensor: Float32Array, spec: EventFrameSpec, rng: np.random.Generator, reach: int
) -> Float32Array:
    """Move frames [T, C, H, W] by up to `reach` cells, with no events where nothing was."""
    empty = np.float32(-spec.mean / spec.std)
    around = ((0, 0), (0, 0), (reach, reach), (reach, reach))
    padded = np.pad(tensor, around, constant_values=empty)
    top, left = rng.integers(0, 2 * reach + 1, 2)
    rows, columns = tensor.shape[2:]
    return np.ascontiguousarray(padded[:, :, top : top + rows, left : left + columns])
