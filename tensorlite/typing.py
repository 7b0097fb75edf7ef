"""The types in annotations. They document and serve type checkers; while a program runs, functions check what they need.

Aliases that name Tensor are strings, so that this module imports nothing and `help` shows them as they stand here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    from .tensor import Tensor

__all__ = ["Array", "ArrayLike", "Axis", "DType", "Shape"]

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray: they have the same interface and no common base class
ArrayLike: TypeAlias = "Tensor | Array | float"  # what an op computes with; as in JAX, no nested lists
Axis: TypeAlias = int | tuple[int, ...] | None  # of a reduction: None stands for all axes
DType: TypeAlias = "np.dtype[Any] | type | str"  # tl.float32, np.float32, float, "float32"
Shape: TypeAlias = int | Sequence[int]
