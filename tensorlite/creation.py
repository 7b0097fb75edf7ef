"""Functions that make Tensors from data, constants and random numbers.

`device` is "cpu", "cuda" or "cuda:<index>"; None is the default device (`default_device`). A device that does not exist
raises RuntimeError or ValueError; a dtype that is not floating, integer or boolean raises TypeError, as does
requires_grad for a dtype that is not floating. With `requires_grad` the new Tensor is a leaf that gets a gradient.
"""

from typing import Any

import numpy as np

from .autograd import Variable
from .backend import Array, create, device_of, float32, int64, is_array, to_device, to_host
from .errors.checks import checked_dtype, checked_shape, unsupported_array_advice
from .random import Generator, stream
from .tensor import Tensor, tuple_of
from .typing import ArrayLike, DType, Shape

__all__ = [
    "tensor", "zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like", "arange",
    "linspace", "eye", "rand", "randn", "randint", "randperm", "multinomial",
]  # fmt: skip


# ----- from data
# --------------------------------------------------------------------------------------------------------


def tensor(data: Any, dtype: "DType | None" = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A new Tensor holding a copy of `data`: a number, nested lists, an array or a Tensor.

    Python floats become float32 and ints int64 unless `dtype` says otherwise; arrays keep their dtype. Ragged lists
    raise ValueError; strings, objects and complex numbers raise TypeError, as does requires_grad on a dtype that is
    not floating.
    """
    if isinstance(data, Tensor):
        data = data.data
    if advice := unsupported_array_advice(data):
        raise TypeError(f"tensor: {advice}")
    if is_array(data):
        checked_dtype(data.dtype)
        array = to_device(data, device or device_of(data))
        array = array.astype(data.dtype if dtype is None else checked_dtype(dtype))  # always a copy
    else:
        array = _from_python(data, dtype)
        array = to_device(array, device)
    return _make(array, requires_grad)


def _from_python(data: Any, dtype: "DType | None") -> np.ndarray:
    if isinstance(data, (list, tuple)):
        for kind, each in {type(each): each for each in data}.items():
            if not issubclass(kind, Variable) and (advice := unsupported_array_advice(each)):
                raise TypeError(f"tensor: {advice}")
    try:
        array = np.array(data)
    except ValueError as error:
        raise ValueError("tensor: the nested lists are ragged: give rows of one length") from error
    if array.dtype == object and all(isinstance(x, int) for x in array.flat):
        raise OverflowError(_does_not_fit(max(array.flat, key=abs), int64 if dtype is None else checked_dtype(dtype)))
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"tensor: cannot hold {type(data).__name__} data of dtype {array.dtype}: give numbers or booleans"
        )
    if dtype is None:
        dtype = float32 if array.dtype.kind == "f" and not isinstance(data, np.generic) else array.dtype
    return _fitting(array, checked_dtype(dtype)).astype(dtype)


def _fitting(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`values`, if an integer `dtype` holds them all after floats are truncated; else OverflowError or ValueError."""
    if dtype.kind not in "iu" or values.dtype.kind == "b" or values.dtype == dtype:
        return values
    limits = np.iinfo(dtype)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ValueError(f"nan and inf cannot be converted to {dtype}: choose a floating dtype")
        whole = np.trunc(values)
        wrong = values[(whole < float(limits.min)) | (whole >= float(limits.max) + 1)]
    else:
        wrong = values[(values < limits.min) | (values > limits.max)]
    if wrong.size:
        raise OverflowError(_does_not_fit(wrong.flat[0], dtype))
    return values


def _does_not_fit(value: Any, dtype: np.dtype) -> str:
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.iinfo(int64)
    return f"{value} does not fit in {dtype}, which holds {limits.min} to {limits.max}: choose a wider dtype"


def _make(array: Array, requires_grad: bool = False) -> Tensor:
    checked_dtype(array.dtype)
    return Tensor(array, requires_grad)


# ----- constants ----------------------------------------------------------------------------------------------------


def zeros(shape: Shape, dtype: DType = float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros of `shape`, an int or a sequence of ints (TypeError, or ValueError for a negative one)."""
    return _make(create(device, "zeros", checked_shape(shape), checked_dtype(dtype)), requires_grad)


def ones(shape: Shape, dtype: DType = float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Ones of `shape`."""
    return _make(create(device, "ones", checked_shape(shape), checked_dtype(dtype)), requires_grad)


def full(
    shape: Shape, value: float, dtype: "DType | None" = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """All elements `value`, a number (TypeError); the dtype is float32 for a Python float and int64 for an int.

    OverflowError for a value that an integer `dtype` does not hold.
    """
    if not isinstance(value, (int, float, np.generic)):
        raise TypeError(f"full: value must be a number, not {type(value).__name__}")
    dtype = checked_dtype(dtype) if dtype is not None else float32 if isinstance(value, float) else None
    if dtype is not None:
        _fitting(np.asarray(value), dtype)
    return _make(create(device, "full", checked_shape(shape), value, dtype), requires_grad)


def empty(shape: Shape, dtype: DType = float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Uninitialized memory: write to all of it before you read."""
    return _make(create(device, "empty", checked_shape(shape), checked_dtype(dtype)), requires_grad)


def zeros_like(x: Tensor, dtype: "DType | None" = None) -> Tensor:
    """Zeros of the shape, device and dtype of `x`, unless `dtype` says otherwise."""
    return zeros(x.shape, x.dtype if dtype is None else dtype, x.device)


def ones_like(x: Tensor, dtype: "DType | None" = None) -> Tensor:
    """Ones of the shape, device and dtype of `x`, unless `dtype` says otherwise."""
    return ones(x.shape, x.dtype if dtype is None else dtype, x.device)


def full_like(x: Tensor, value: float, dtype: "DType | None" = None) -> Tensor:
    """All elements `value`, in the shape, device and dtype of `x`, unless `dtype` says otherwise."""
    return full(x.shape, value, x.dtype if dtype is None else dtype, x.device)


def empty_like(x: Tensor, dtype: "DType | None" = None) -> Tensor:
    """Uninitialized memory of the shape, device and dtype of `x`, unless `dtype` says otherwise."""
    return empty(x.shape, x.dtype if dtype is None else dtype, x.device)


def arange(
    start: float, stop: float | None = None, step: float = 1, dtype: "DType | None" = None, device: str | None = None
) -> Tensor:
    """start, start + step, ... below stop: arange(n) is 0 .. n - 1. int64 for ints, float32 if a float is among them.

    ValueError for a step of 0.
    """
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ValueError("arange: step must not be 0")
    if dtype is None:
        dtype = float32 if any(isinstance(v, float) for v in (start, stop, step)) else int64
    return _make(create(device, "arange", start, stop, step, dtype=checked_dtype(dtype)))


def linspace(start: float, stop: float, num: int = 50, dtype: DType = float32, device: str | None = None) -> Tensor:
    """`num` equally spaced values from start to stop, both included."""
    return _make(create(device, "linspace", start, stop, num, dtype=checked_dtype(dtype)))


def eye(n: int, m: int | None = None, dtype: DType = float32, device: str | None = None) -> Tensor:
    """The identity matrix (n, n); with `m`, ones on the main diagonal of (n, m)."""
    return _make(create(device, "eye", n, m, dtype=checked_dtype(dtype)))


# ----- random numbers: torch's CPU stream (random.py) ---------------------------------------------------------------


def _random(values: np.ndarray, device: str | None, requires_grad: bool = False) -> Tensor:
    return _make(to_device(values, device), requires_grad)


def rand(
    *shape: Shape, dtype: DType = float32, device: str | None = None, generator: Generator | None = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Uniform in [0, 1): rand(2, 3) or rand((2, 3)). float32 or float64. `generator` None: the default one."""
    values = stream(generator).rand(checked_shape(tuple_of(shape)), dtype=checked_dtype(dtype))
    return _random(values, device, requires_grad)


def randn(
    *shape: Shape, dtype: DType = float32, device: str | None = None, generator: Generator | None = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Normal with mean 0 and standard deviation 1: randn(2, 3) or randn((2, 3)). float32 or float64."""
    values = stream(generator).randn(checked_shape(tuple_of(shape)), dtype=checked_dtype(dtype))
    return _random(values, device, requires_grad)


def randint(low: int, high: int, shape: Shape, device: str | None = None, generator: Generator | None = None) -> Tensor:
    """Integers, int64, uniform in [low, high). ValueError for an empty range."""
    return _random(stream(generator).randint(low, high, checked_shape(shape)), device)


def randperm(n: int, device: str | None = None, generator: Generator | None = None) -> Tensor:
    """A random order of 0 .. n - 1, int64."""
    return _random(stream(generator).randperm(n), device)


def multinomial(
    p: ArrayLike, num_samples: int = 1, *, replacement: bool = False, generator: Generator | None = None
) -> Tensor:
    """Indices, int64, drawn in proportion to the last axis of `p`: (..., C) -> (..., num_samples).

    An index of probability 0 is never drawn. Errors as in `Generator.multinomial` (random.py).
    """
    p = p if isinstance(p, Tensor) else tensor(p)
    drawn = stream(generator).multinomial(to_host(p.data), num_samples, replacement=replacement)
    return _random(drawn, p.device)
