"""The dtype in which an op computes and the dtype of its result, the same rules for all ops.

- Narrow floats (float16, bfloat16) are computed in float32, and the result is rounded to the narrow dtype once. So a
  sum of a million elements, a softmax or a product of matrices loses no more digits than one rounding, on any device.
- Integers do not widen floats: together with float32 they become float32, and a function that computes floats from
  integers gives float32, the library's default. (NumPy gives float64 in both cases, and float16 for int8 and booleans.)
- Scalars do not widen Tensors: a Python number, or a NumPy scalar together with a Tensor, takes the Tensor's dtype.

Everything else follows NumPy's promotion; docs/conventions.md has the table. `Primitive.__call__` applies these rules
to each op. A function that is made of several ops has a decorator, `promote_narrow` or `promote_to_float`: then its
arguments are converted once, and its result is rounded once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from .autograd import Variable
from .backend import Array, Scalar, float32, float64, is_floating
from .errors.checks import check_supported

F = TypeVar("F", bound=Callable[..., Any])

# For arrays of one narrow dtype, NumPy and CuPy compute these ops in float32 and round the result, which is what the
# rules ask for. Converting the arguments first would only take time: on a GPU four kernels instead of one.
ROUNDED_ONCE = frozenset({"add", "sub", "neg"})


def is_narrow(dtype: np.dtype) -> bool:
    """True for float16 and bfloat16."""
    return dtype.itemsize == 2 and is_floating(dtype)


def _dtypes(values: Sequence[Any]) -> list[Any]:
    """The dtype of each value; None if it does not count: a Python object, or a NumPy scalar with a Tensor."""
    weak = Scalar if any(isinstance(v, Variable) for v in values) else ()
    raw = [v.data if isinstance(v, Variable) else v for v in values]
    return [None if isinstance(x, weak) else getattr(x, "dtype", None) for x in raw]


def in_float32(values: Sequence[Any], op: Any = None) -> tuple[list[Any], Any] | None:
    """`values` with narrow floats as float32, and the dtype to round the result to; None if no value is narrow.

    The result is rounded where all floating arrays have the same narrow dtype; otherwise it is not, and the dtype is
    None. For an `op` without derivatives, such as a comparison, Python numbers are rounded first, so that a float16
    element that was set to 0.1 equals 0.1.
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
            value = value.astype(float32)
        converted.append(value)
    return converted, narrow


def without_widening(values: Sequence[Any], out: Array) -> list[Any] | None:
    """`values` converted so that the result is not float64 or float16, as `out` is; None if no conversion is needed.

    None where an argument has the dtype of `out`. Otherwise integers, booleans and lists become float32, and NumPy
    scalars become Python numbers.
    """
    dtypes = _dtypes(values)
    known = {dtype for dtype in dtypes if dtype is not None}  # (np.dtype(None) is float64)
    if not known or out.dtype in known:
        return None
    converted = []
    for value, dtype in zip(values, dtypes, strict=True):
        if isinstance(value, Scalar) and dtype is None:
            value = value.item()
        elif isinstance(value, list):
            value = np.asarray(value, float32)
        elif dtype is not None and dtype.kind in "iub":
            value = value.astype(float32)
        converted.append(value)
    return converted if any(a is not b for a, b in zip(values, converted, strict=True)) else None


def rounded(x: Any, dtype: Any) -> Any:
    """`x` in the floating `dtype`; as it is if the dtype is None, or if `x` holds integers or booleans."""
    found = dtype_of(x)
    return x if dtype is None or not is_floating(found) or found == dtype else x.astype(dtype)


def dtype_of(x: Any) -> Any:
    """The dtype of a Tensor or an array; None for anything else."""
    return getattr(x.data if isinstance(x, Variable) else x, "dtype", None)


# ----- functions made of several ops ------------------------------------------------------------------------------


def promote_narrow(function: F, integers: bool = False) -> F:
    """A decorator: float16 and bfloat16 arguments are converted to float32 once for all ops of `function`, and its
    result is rounded to the narrow dtype. With `integers`, a first argument of integers or booleans becomes float32.
    """

    @functools.wraps(function)
    def promoted(*args: Any, **options: Any) -> Any:
        if args and not isinstance(args[0], Variable):
            check_supported(function.__name__, args[0])
        dtype = dtype_of(args[0]) if args else None
        if dtype is float32 or dtype is float64 or dtype is None:
            return function(*args, **options)
        if integers and not is_floating(dtype):
            args = args[0].astype(float32), *args[1:]
        found = in_float32([*args, *options.values()])
        if found is None:
            return function(*args, **options)
        converted, narrow = found
        options = dict(zip(options, converted[len(args) :], strict=True))
        return rounded(function(*converted[: len(args)], **options), narrow)

    return cast(F, promoted)


def promote_to_float(function: F) -> F:
    """`promote_narrow`, for functions whose result is floating: integers and booleans become float32 first."""
    return promote_narrow(function, integers=True)
