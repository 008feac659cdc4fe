"""S-CMRL: the published network on plain spikingjelly neurons."""

from model.network.scmrl import SCMRL
from model.output import LayerOperations, Output, StreamAttention

__all__ = ["SCMRL", "LayerOperations", "Output", "StreamAttention"]
