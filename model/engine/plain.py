"""The plain network as an engine path (`EnginePath`), and the torch state that all paths run in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from model.engine.inputs import hold
from model.engine.outputs import to_cpu
from model.network import SCMRL, Output


class PlainNetwork:
    """The network itself, in eval mode on its device, computed with `threads` threads on a CPU."""

    def __init__(self, network: SCMRL, threads: int) -> None:
        self._network = network
        self._device = network.head.bias.device
        self._threads = threads

    def __call__(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """Return the output, on the CPU, for inputs [T or 1, B, C, H, W] on any device."""
        moved = {name: x.to(self._device) for name, x in inputs.items()}
        with _torch_threads(self._threads):
            return to_cpu(self.forward(moved, steps, attention))

    def forward(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """Return the output, on the device, for inputs there."""
        output: Output = self._network(hold(inputs, steps), attention=attention)
        return output


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads, which is a property of the calling thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def inference_context(device: torch.device) -> Iterator[None]:
    """Disable gradients. On CUDA, make the device the current one, which Triton launches on, and
    from then on cuDNN's convolutions of the process float32: TF32 rounding adds or removes spikes
    where the membrane potential is near the threshold."""
    with torch.inference_mode():
        if device.type != "cuda":
            yield
            return
        # Not torch.backends.cudnn.flags: the flag is the process's, and a thread that restores it
        # would switch TF32 on under another one, which may be recording a graph.
        torch.backends.cudnn.allow_tf32 = False
        with torch.cuda.device(device):
            yield
