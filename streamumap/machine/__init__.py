"""The machine: memory, its limits, GPUs, compiled kernels, and the process that samples memory."""
