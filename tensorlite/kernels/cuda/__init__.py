"""Kernels on CuPy's arrays: CUDA C++ of our own, cublasLt for matrix products, cuDNN for attention.

A module of Python has functions on arrays, and a .cu file of the same name the CUDA kernels that they launch. Each
CUDA kernel is a template over the dtypes of its arrays; its comment says its formula and what it reads and writes. It
computes in float32 and adds up in a fixed order, so every run gives the same bits. Tests compile the same sources for a
CPU and run them there.

Nothing is imported here: a module is imported when the first CuPy array arrives, so a CPU never loads any of them.
"""
