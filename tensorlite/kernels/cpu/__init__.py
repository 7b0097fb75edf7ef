"""Kernels of the hot ops: few passes over memory, results written in place, matrix products wherever one fits.

One idea: rows. Every kernel sees its input as (rows, columns), takes the rows in blocks that stay in a core's cache,
spreads the blocks over threads, and leaves to BLAS what BLAS can do: a mean is a product with a vector of ones, a sum
over rows too (7 times faster than `sum`). What is done to a block is written twice: in numpy_impl.py for NumPy, in loops.py
as loops that numba compiles where it is installed; steps.py chooses. Each formula is the derivative of its namesake in
formulas.py, written for arrays; the property tests hold the two together.
"""

from . import attention as scores
from . import blocks, layers, losses, numpy_impl
from . import choose_impl as steps
