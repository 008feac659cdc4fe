"""An engine that counts what it runs, to see what each device gets of a queue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from service.inference.engines import DeviceNetwork

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from model.config import EnginePath, Precision
    from model.engine.memory import Memory
    from model.network import Output


class CountedEngine:
    """Runs a network as `engine` does. `batches`, `clips`: run so far."""

    def __init__(self, engine: DeviceNetwork) -> None:
        self.engine = engine
        self.max_batch = engine.max_batch
        self.batches = self.clips = 0

    def run(
        self,
        inputs: Mapping[str, Tensor],
        steps: int | None = None,
        explain: Collection[str] = (),
    ) -> Output:
        output = self.engine.run(inputs, steps, explain)
        self.batches += 1
        self.clips += next(iter(inputs.values())).shape[1]
        return output

    @property
    def path(self) -> EnginePath:
        return self.engine.path

    @property
    def device(self) -> torch.device:
        return self.engine.device

    @property
    def out_of_memory_count(self) -> int:
        return self.engine.out_of_memory_count

    @property
    def memory(self) -> Memory | None:
        return self.engine.memory

    @property
    def is_lost(self) -> bool:
        return self.engine.is_lost

    def allocate(self, shape: Sequence[int], dtype: str = "float32") -> NDArray[Any]:
        return self.engine.allocate(shape, dtype)

    def fuse(self, precision: Precision = "float32", steps: int = 4) -> bool:
        return self.engine.fuse(precision, steps)

    def warm_up(self, steps: int, batch_sizes: Iterable[int]) -> None:
        self.engine.warm_up(steps, batch_sizes)

    def tune(self, budget_s: float, is_stopping: Callable[[], bool]) -> bool:
        return self.engine.tune(budget_s, is_stopping)

    def batch_times(self, steps: int, sizes: Iterable[int], longest_s: float) -> dict[int, float]:
        return self.engine.batch_times(steps, sizes, longest_s)

    def set_max_batch(self, max_batch: int) -> None:
        self.engine.set_max_batch(max_batch)
        self.max_batch = max_batch

    def renew(self) -> CountedEngine:
        return CountedEngine(self.engine.renew())
