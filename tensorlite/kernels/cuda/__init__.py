"""CUDA kernels of the hot ops, and NVIDIA's libraries for products and attention. functional.py joins them to it.

One idea: Python decides, CUDA C++ computes. A module of Python has the array functions (the names of kernels/cpu), the
.cu file of the same name the kernels that they launch. Each kernel is a template over the dtypes of its arrays and says
its formula and what it reads and writes; it computes in float32, adds up in a fixed order, and so gives the same bits
in every run. Without a GPU the tests compile the same sources for a CPU and run them there.
"""

from . import attention as scores
from . import decode, embedding, launch, layers, losses, philox, update
