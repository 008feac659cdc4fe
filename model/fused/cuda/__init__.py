"""The fused network on CUDA: packed spikes and Triton kernels."""
