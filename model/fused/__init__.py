"""The network with fused layers: equal outputs, fewer passes over memory."""
