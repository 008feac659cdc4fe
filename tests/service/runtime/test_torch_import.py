"""Nothing needs the parts of torch that a service does not import. In processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

WEIGHTS = Path(__file__).parents[3] / "weights" / "avdigits"
#: Starts as a service does.
_QUICK = (
    "from service.runtime.torch_import import import_torch, preload; preload(); import_torch()\n"
)


def _printed(code: str) -> str:
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.mark.parametrize("encoding", ["direct", "rate", "latency"])
def test_the_network_answers_the_same(encoding: str) -> None:
    """To the bit, with whatever encoding a checkpoint has."""
    code = f"""
from pathlib import Path
import torch
from model import checkpoint
from model.encoding import encode
from model.engine import Engine

network, card = checkpoint.load(Path({str(WEIGHTS)!r}))
streams = network.config.streams.items()
inputs = {{name: torch.linspace(0, 1, s.channels * s.size[0] * s.size[1])
          .reshape(1, s.channels, *s.size) for name, s in streams}}
spikes = {{name: torch.from_numpy(encode(x.numpy(), 4, {encoding!r})[:, None].copy())
          for name, x in inputs.items()}}
print(Engine(network).run(spikes, 4, explain=["attention"]).logits.tolist())
"""
    assert _printed(_QUICK + code) == _printed(code)


def test_tracing_works_once_its_modules_are_imported() -> None:
    """Shapes of an operator that has no kernel for them but the one in Python."""
    code = """
import torch
import torch._meta_registrations
from torch._subclasses.fake_tensor import FakeTensorMode

with FakeTensorMode():
    print(torch.linalg.cholesky(torch.empty(3, 3)).shape)
    print(torch.nn.functional.conv2d(torch.empty(1, 2, 8, 8), torch.empty(4, 2, 3, 3)).shape)
"""
    assert _printed(_QUICK + code) == _printed(code)


def test_triton_without_a_gpu_is_out_of_sight() -> None:
    """As where torch was made for CUDA: finding it, spikingjelly has torch import its compiler."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    code = """
import sys
import torch
from model.network.neuron import LIF

print(LIF()(torch.tensor([[0.5, 2.0], [3.0, 0.0]])).tolist())
print({"torch._inductor", "triton.runtime"} & set(sys.modules))
"""
    assert _printed(_QUICK + code) == "[[0.0, 1.0], [1.0, 0.0]]\nset()\n"


def test_with_a_gpu_all_is_there_but_torchs_compiler() -> None:
    """As far as that can be seen without one: what is done where one is found."""
    pytest.importorskip("triton")
    code = """
import sys
from service.runtime.torch_import import _complete

_complete()
import spikingjelly._ops.lif.triton
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from model.fused.cuda import network
from model.network.neuron import LIF

print(LIF()(torch.tensor([[0.5, 2.0], [3.0, 0.0]])).tolist(), "torch._inductor" in sys.modules)
with FakeTensorMode():
    print(torch.linalg.cholesky(torch.empty(3, 3)).shape)
"""
    assert _printed(_QUICK + code) == "[[0.0, 1.0], [1.0, 0.0]] False\ntorch.Size([3, 3])\n"


def test_what_reads_strangers_files_is_not_in_the_service_itself() -> None:
    """Which also spares its start a quarter of a second."""
    code = "import sys, service.app; print({'av', 'cv2', 'soundfile', 'torch'} & set(sys.modules))"
    assert _printed(code) == "set()\n"
