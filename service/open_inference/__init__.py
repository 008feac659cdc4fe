"""The Open Inference Protocol v2, independent of how it is transported."""
