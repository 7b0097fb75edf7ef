"""Kernels on NumPy's arrays: few passes over memory, results written in place, matrix products wherever one fits.

A kernel sees its input as rows (N, C) or as a flat array, cuts it into blocks that fit a core's cache, and distributes
the blocks over threads (blocks.py). Matrix products go to BLAS, and so do sums over rows: a product with a vector of
ones is 7 times as fast as `sum`. What happens within a block is written twice, as NumPy calls in numpy_impl.py and as
loops in numba_impl.py, which numba compiles where it is installed; choose_impl.py chooses. Derivatives are written for
arrays here; property tests compare them with those of the formulas.
"""

from . import attention, blocks, choose_impl, layers, losses, numpy_impl
