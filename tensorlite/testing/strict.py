"""A stand-in for a GPU: arrays that refuse implicit conversion to NumPy arrays, numbers or truth values.

To read a value of a GPU, the host waits for all queued work, and to mix in a NumPy array copies it. CuPy does some of
that silently. This wrapper around NumPy refuses it, or counts it in `strict.waits` where it is explicit, so a test on
any machine shows that the library does not do it. Like CuPy's, its reductions return 0-d arrays, not scalars.
"""

import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class StrictArray:
    """An array of the strict device. It can be combined with such arrays and with Python's numbers only."""

    __array_ufunc__ = None  # so that ndarray + StrictArray asks StrictArray, which refuses
    __hash__: Any = None
    __slots__ = ("__weakref__", "base", "values")
    library: Any

    def __init__(self, values: np.ndarray, base: "StrictArray | None" = None) -> None:
        self.values, self.base = values, base

    dtype = property(lambda self: self.values.dtype)
    shape = property(lambda self: self.values.shape)
    ndim = property(lambda self: self.values.ndim)
    size = property(lambda self: self.values.size)
    nbytes = property(lambda self: self.values.nbytes)
    T = property(lambda self: strict.transpose(self))
    strides = property(lambda self: self.values.strides)
    itemsize = property(lambda self: self.values.itemsize)
    flags = property(lambda self: self.values.flags)
    data = property(lambda self: types.SimpleNamespace(ptr=self.values.ctypes.data))  # as CuPy's arrays have it

    def __len__(self) -> int:
        return len(self.values)

    # ----- explicit conversions, which wait: counted ----------------------------------------------------------------

    def get(self) -> np.ndarray:
        strict.waits += 1
        return self.values.copy()

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    # ----- implicit conversions, which would wait: refused ----------------------------------------------------------

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "a strict array does not become a NumPy array or a number implicitly: that would wait for the GPU"
        )

    __array__ = __float__ = __int__ = __bool__ = __index__ = __complex__ = __contains__ = _refuse

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self))]) if self.ndim > 1 else self._refuse()  # rows are views

    # ----- indexing -------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> "StrictArray":
        parts = index if isinstance(index, tuple) else (index,)
        strict.waits += any(isinstance(i, StrictArray) and i.dtype == bool for i in parts)  # how many are true?
        return wrapped(self.values[bare(index)], [self])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.values[bare(index)] = bare(value)


def bare(x: Any) -> Any:
    """The NumPy array inside a StrictArray. TypeError for a NumPy array of the host."""
    if isinstance(x, StrictArray):
        return x.values
    if isinstance(x, np.ndarray | np.generic):
        raise TypeError(f"a strict array meets a NumPy {type(x).__name__} of dtype {x.dtype}: they are on two devices")
    if isinstance(x, slice):
        return slice(bare(x.start), bare(x.stop), bare(x.step))
    return type(x)([bare(i) for i in x]) if isinstance(x, list | tuple) else x


def wrapped(out: Any, inputs: Any) -> Any:
    """A result on the strict device. The `base` of a view is the array whose memory it shares."""
    if isinstance(out, list | tuple):
        return type(out)([wrapped(o, inputs) for o in out])
    if not isinstance(out, np.ndarray | np.generic):
        return out
    for x in inputs:
        if isinstance(x, StrictArray):
            if out is x.values:
                return x
            owner = x if x.base is None else x.base
            if isinstance(out, np.ndarray) and out.base is not None and out.base is owner.values:
                return StrictArray(out, owner)
    return StrictArray(np.asarray(out))


class Function:
    """A function of NumPy on strict arrays, with `.at` as ufuncs have it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        flat = [x for a in (*args, *kwargs.values()) for x in (a if isinstance(a, list | tuple) else [a])]
        out = self.function(*map(bare, args), **{name: bare(a) for name, a in kwargs.items()})
        return wrapped(out, flat)

    def at(self, *args: Any) -> None:
        method: Any = self.function
        method.at(*map(bare, args))


class Library(types.ModuleType):
    """What `xp(x)` is for a StrictArray: NumPy's names."""

    waits = 0  # how often the host waited for a value

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if isinstance(function, type) or not callable(function):
            return function
        return Function(function)

    def asarray(self, x: Any, dtype: Any = None) -> StrictArray:
        """A copy of a host array on the device, which does not wait; a StrictArray stays as it is."""
        values = x.values if isinstance(x, StrictArray) else np.array(x)
        same = isinstance(x, StrictArray) and (dtype is None or x.dtype == dtype)
        return x if same else StrictArray(np.asarray(values, dtype=dtype))

    def array(self, x: Any, dtype: Any = None) -> StrictArray:
        return StrictArray(np.array(x.values if isinstance(x, StrictArray) else x, dtype=dtype))


strict: Any = Library("strict")
StrictArray.library = strict

METHODS = [
    "all", "any", "argmax", "argmin", "argsort", "astype", "clip", "copy", "cumsum", "dot", "fill", "max", "mean",
    "min", "prod", "ravel", "repeat", "reshape", "round", "sort", "squeeze", "std", "sum", "swapaxes", "take",
    "transpose", "var", "__neg__", "__pos__", "__abs__", "__invert__",
]  # fmt: skip
COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge"]
ARITHMETIC = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"]


def _method(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = getattr(self.values, name)(*map(bare, args), **{k: bare(a) for k, a in kwargs.items()})
        return wrapped(out, [self])

    return method


def _operator(name: str, in_place: bool = False) -> Callable[..., Any]:
    def operator(self: Any, other: Any) -> Any:
        if hasattr(type(other), "__array_ufunc__") and not isinstance(other, StrictArray | np.ndarray | np.generic):
            return NotImplemented  # a Tensor has its own way
        out = getattr(self.values, name)(bare(other))
        return self if in_place else out if out is NotImplemented else wrapped(out, [self])

    return operator


for name in METHODS:
    setattr(StrictArray, name, _method(name))
for name in COMPARISONS:
    setattr(StrictArray, f"__{name}__", _operator(f"__{name}__"))
for name in ARITHMETIC:
    setattr(StrictArray, f"__{name}__", _operator(f"__{name}__"))
    setattr(StrictArray, f"__r{name}__", _operator(f"__r{name}__"))
    setattr(StrictArray, f"__i{name}__", _operator(f"__i{name}__", in_place=True))
