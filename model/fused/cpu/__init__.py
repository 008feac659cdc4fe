"""The fused network on a CPU: numba, Winograd and int8 kernels."""
