"""S-CMRL: the published network on plain spikingjelly neurons."""

from model.network.output import LayerOperations, Output, StreamAttention
from model.network.scmrl import SCMRL

__all__ = ["SCMRL", "LayerOperations", "Output", "StreamAttention"]
