"""Compile a network's kernels without a GPU: `python -m tests.model.compile_kernels 86 90`.

Every kernel is compiled as a first call on a card of each compute capability would, and none is
launched. Prints one line of JSON a kernel.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from model.engine.bench import CASES, inputs
from model.fused.cuda.network import CUDANetwork
from model.network import SCMRL


class Card:
    """The parts of a driver that Triton's compiler uses."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._capability  # kernels are compiled once for each device

    def get_current_stream(self, device: int) -> int:
        return 0


def main(capabilities: list[int]) -> None:
    run, hashes = JITFunction.run, set()

    def compiled(self: JITFunction, *args: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **constants)
        if kernel.hash in hashes:
            return
        hashes.add(kernel.hash)
        ptx = kernel.asm["ptx"]
        report = {
            "capability": kernel.metadata.target.arch,
            "kernel": kernel.name,
            "constants": {k: v for k, v in constants.items() if k.isupper()},
            "shared": kernel.metadata.shared,
            "machine_code": len(kernel.asm["cubin"]),
            "products": ptx.count("mma.sync") + ptx.count("wgmma.mma_async"),
        }
        print(json.dumps(report), flush=True)

    JITFunction.run = compiled
    networks = ("crema_d", (1, 32), False), ("events", (1,), False), ("events", (1,), True)
    for name, batches, half in networks:
        case = CASES[name]
        fused = CUDANetwork(SCMRL(case.config).eval(), half=half)
        for batch in batches:
            frames = inputs(case, batch, seed=0)
            for capability in capabilities:
                driver.set_active(Card(capability))
                with torch.inference_mode():
                    fused(frames, case.steps, True)


if __name__ == "__main__":
    main([int(capability) for capability in sys.argv[1:]])
