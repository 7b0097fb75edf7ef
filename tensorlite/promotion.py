"""In what dtype an op computes and what dtype its result has: decided here, once for all ops.

- Narrow floats (float16, bfloat16) are computed in float32, and the result is rounded to the narrow dtype once. So a
  sum of a million elements, a softmax or a product of matrices loses no more digits than one rounding, on any device.
- Integers do not widen floats: with float32 they become float32, and a function that makes floats of integers makes
  float32, the library's default. (NumPy makes float64 of both, and float16 of int8 and booleans.)
- Scalars do not widen Tensors: a Python number, or a NumPy scalar with a Tensor, takes the dtype of the Tensor.

Everything else is NumPy's promotion. docs/conventions.md has the table.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .autograd import Variable
from .backend import Array, Scalar, float32, is_floating

# Array libraries compute these in float32 and round: for arrays of one narrow dtype that is the right result, and so
# are the gradients. Converting first would only take time: on a GPU four kernels instead of one for each residual.
ROUNDED_ONCE = frozenset({"add", "sub", "neg"})


def is_narrow(dtype: np.dtype) -> bool:
    """True for float16 and bfloat16."""
    return dtype.itemsize == 2 and is_floating(dtype)


def _dtypes(values: Sequence[Any]) -> list[Any]:
    """The dtype of each value; None for values that do not count: Python objects, and NumPy scalars with a Tensor."""
    weak = Scalar if any(isinstance(v, Variable) for v in values) else ()
    raw = [v.data if isinstance(v, Variable) else v for v in values]
    return [None if isinstance(x, weak) else getattr(x, "dtype", None) for x in raw]


def in_float32(values: Sequence[Any], cast: Callable[..., Any], op: Any = None) -> tuple[list[Any], Any] | None:
    """`values` with narrow floats as float32, and the dtype to round the result to; None where nothing is to be done.

    `cast(value, dtype)` converts one. The result is rounded where all floating arrays have the same narrow dtype;
    otherwise it stays as it is (then the dtype is None). For an `op` without derivatives, a comparison, Python numbers
    are rounded first: an element that was made of 0.1 equals 0.1.
    """
    dtypes = _dtypes(values)
    if op is not None and op.name in ROUNDED_ONCE and len(set(dtypes)) == 1:
        return None
    floats = {dtype for dtype in dtypes if dtype is not None and is_floating(dtype)}
    if not any(map(is_narrow, floats)):
        return None
    narrow = floats.pop() if len(floats) == 1 else None
    compares = op is not None and not op.differentiable
    converted = []
    for value, dtype in zip(values, dtypes, strict=True):
        if dtype is None:
            value = float(narrow.type(value)) if compares and narrow and isinstance(value, float) else value
        elif is_narrow(dtype):
            value = cast(value, float32)
        converted.append(value)
    return converted, narrow


def without_widening(values: Sequence[Any], out: Array, cast: Callable[..., Any]) -> list[Any] | None:
    """The replacements of `values` where NumPy widened the result `out` to float64, or made it float16.

    None where that is right: some array is float64. Otherwise integers, booleans and lists become float32, and NumPy
    scalars Python numbers.
    """
    dtypes = _dtypes(values)
    known = {dtype for dtype in dtypes if dtype is not None}  # (None equals float64)
    if not known or out.dtype in known:
        return None
    converted = []
    for value, dtype in zip(values, dtypes, strict=True):
        if isinstance(value, Scalar) and dtype is None:
            value = value.item()
        elif isinstance(value, list):
            value = np.asarray(value, float32)
        elif dtype is not None and dtype.kind in "iub":
            value = cast(value, float32)
        converted.append(value)
    return converted if any(a is not b for a, b in zip(values, converted, strict=True)) else None
