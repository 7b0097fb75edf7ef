"""The types in annotations. They are for readers and type checkers; what a function needs it checks itself.

Aliases that name Tensor are strings, so that this module imports nothing and `help` shows them as they stand here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    from .tensor import Tensor

__all__ = ["Array", "ArrayLike", "Axis", "DType", "Operand", "Shape"]

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray: they have the same interface and no common base class
ArrayLike: TypeAlias = "Tensor | Array"  # what has a shape; nested lists are none
Axis: TypeAlias = int | tuple[int, ...] | None  # of a reduction: None stands for all axes
DType: TypeAlias = "np.dtype[Any] | type | str"  # tl.float32, np.float32, float, "float32"
Operand: TypeAlias = "Tensor | Array | float"  # of an elementwise op
Shape: TypeAlias = int | Sequence[int]
