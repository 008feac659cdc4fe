"""The fused network on a CPU: numba and oneDNN kernels."""
