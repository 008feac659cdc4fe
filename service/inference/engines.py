"""The interface of a network on one device, in whichever process it runs.

`model.engine.Engine` runs it in this process, `service.device_link.engine.DeviceEngine` in another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from model.config import EnginePath, Precision
    from model.engine.memory import Memory
    from model.network import Output


class DeviceNetwork(Protocol):
    """See model.engine.Engine. Each method that runs something raises DeviceLost where the network
    is in another process, which ends."""

    max_batch: int

    @property
    def path(self) -> EnginePath: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def out_of_memory_count(self) -> int: ...

    @property
    def memory(self) -> Memory | None: ...

    @property
    def is_lost(self) -> bool:
        """Whether the network is gone with another process."""
        ...

    def allocate(self, shape: Sequence[int], dtype: str = "float32") -> NDArray[Any]:
        """Return an uninitialized array for inputs of `run`. Raises MemoryError."""
        ...

    def run(
        self,
        inputs: Mapping[str, Tensor],
        steps: int | None = None,
        explain: Collection[str] = (),
    ) -> Output: ...

    def fuse(self, precision: Precision = "float32", steps: int = 4) -> bool: ...

    def warm_up(self, steps: int, batch_sizes: Iterable[int]) -> None: ...

    def tune(self, budget_s: float, is_stopping: Callable[[], bool]) -> bool: ...

    def batch_times(
        self, steps: int, sizes: Iterable[int], longest_s: float
    ) -> dict[int, float]: ...

    def set_max_batch(self, max_batch: int) -> None: ...

    def renew(self) -> DeviceNetwork: ...
