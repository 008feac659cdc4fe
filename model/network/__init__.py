"""S-CMRL: the published network on plain spikingjelly neurons.

`SCMRL(config)` takes frames [T, B, C, H, W] by stream and returns an `Output`: logits [B, classes],
each stream's term of them, and attention maps on request. It is the reference that the fused
networks (model/fused) must agree with.
"""

from model.network.scmrl import SCMRL
from model.output import LayerOperations, Output, StreamAttention

__all__ = ["SCMRL", "LayerOperations", "Output", "StreamAttention"]
