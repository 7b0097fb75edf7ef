"""The machine: threads, memory and BLAS of the CPU."""
