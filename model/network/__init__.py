"""S-CMRL: the published network on plain spikingjelly neurons."""

from model.network.scmrl import (
    SCMRL,
    Output,
    StreamAttention,
)

__all__ = [
    "SCMRL",
    "Output",
    "StreamAttention",
]
