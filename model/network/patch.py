"""Spiking patch splitting: pictures to tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import STAGES, StreamConfig
from model.device import supports_bfloat16
from model.network.neuron import LIF

#: Dtypes that oneDNN pools on this CPU.
_ONEDNN_DTYPES = (
    *((torch.float32,) if torch.backends.mkldnn.is_available() else ()),
    *((torch.bfloat16,) if supports_bfloat16(torch.device("cpu")) else ()),
)


class Stage(nn.Module):
    """Convolution and batch norm at each step, then the neuron over the steps.

    [T, B, C, H, W] to spikes [T, B, C', H, W].
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.lif = LIF()

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[0]
        # Direct encoding repeats one frame: its current is the same at each step, so one
        # convolution is enough.
        frames = x[:1] if x.stride(0) == 0 else x
        current = self.norm(self.conv(frames.flatten(0, 1)))
        current = current.unflatten(0, (frames.shape[0], -1))  # [T or 1, B, C', H, W]
        spikes: Tensor = self.lif(current.expand(steps, -1, -1, -1, -1))
        return spikes


class PatchSplitting(nn.Module):
    """Frames [T, B, C, H, W] of a stream to tokens [T, B, D, N], row by row; values 0, 1 or 2.

    Each stage halves the sides by a max-pool over its spikes and doubles the channels up to D. The
    last stage is the relative position encoding: its spikes are added to its input.
    """

    def __init__(self, stream: StreamConfig, embed_dim: int) -> None:
        super().__init__()
        count = STAGES[stream.splitting]
        widths = [embed_dim >> (count - 1 - i) for i in range(count)]
        self.stages = nn.ModuleList(
            Stage(channels_in, channels_out)
            for channels_in, channels_out in zip([stream.channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.position = Stage(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[0]
        for stage in self.stages:
            x = self._pooled(stage(x).flatten(0, 1)).unflatten(0, (steps, -1))
        tokens: Tensor = x + self.position(x)
        return tokens.flatten(3)

    def _pooled(self, spikes: Tensor) -> Tensor:
        if spikes.requires_grad and spikes.device.type == "cpu" and spikes.dtype in _ONEDNN_DTYPES:
            # In a training step, oneDNN halves the time of this pooling; the values are the same,
            # the gradients but for rounding.
            return self.pool(spikes.to_mkldnn()).to_dense()  # type: ignore[no-any-return]
        pooled: Tensor = self.pool(spikes)
        return pooled
