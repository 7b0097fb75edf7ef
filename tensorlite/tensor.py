"""class Tensor: an array with operators and methods that record how it was computed; and the functions that make one.

One idea: every operator and method is one line into ops.py. Nothing is decided here but what a user may hand in.
There are no in-place operations: `x += 1` makes a new Tensor and binds the name to it, and is refused where `x` is a
leaf that requires a gradient. suggestions.py answers what other libraries spell otherwise, interop.py NumPy's functions.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import derived, interop, ops
from .autograd import Variable
from .backend import Array, create, device_of, float32, int64, is_array, to_device, to_host
from .errors import suggestions
from .errors.checks import checked_dtype, checked_shape, unusable_array
from .random import Generator, stream

__all__ = [
    "Tensor", "tensor", "zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like",
    "arange", "linspace", "eye", "rand", "randn", "randint", "randperm", "multinomial",
]  # fmt: skip


class Tensor(Variable):
    """An n-dimensional array (`.data`: NumPy's or CuPy's) that can be differentiated.

    Make one with `tensor(...)`; `.grad` holds a leaf's gradient after `backward()`, as a Tensor of the same shape,
    dtype and device.
    """

    __slots__ = ()
    __array_ufunc__ = interop.ArrayUfunc()  # ndarray * Tensor is a Tensor, and np.exp(Tensor)
    __array_function__ = interop.array_function
    __hash__ = object.__hash__  # `==` compares elements; identity is what dicts and sets go by

    # ----- what it is ---------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return suggestions.Count(self.data.size)

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def device(self) -> str:
        """'cpu' or 'cuda:<index>'."""
        return device_of(self.data)

    @property
    def is_leaf(self) -> bool:
        """True unless an op computed it from something that requires a gradient."""
        return self.node is None

    @property
    def version(self) -> int:
        """How often an optimizer step or a loaded state has changed the data in place."""
        return self._version[0]

    def changed(self) -> None:
        """Say that `.data` was written to: whoever saved the old values will refuse to use the new ones."""
        self._version[0] += 1

    @property
    def T(self) -> "Tensor":
        return ops.transpose(self)

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len of a 0-d Tensor: it has no first axis")
        return self.shape[0]

    def __iter__(self) -> Iterator["Tensor"]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d Tensor: it has no first axis; .item() is its value")
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(f"the truth of a Tensor of shape {self.shape} is ambiguous: use .any() or .all()")
        return bool(self.item())

    def __repr__(self) -> str:
        values = np.array2string(to_host(self.data), precision=4, separator=", ", prefix="tensor(")
        notes = [] if self.dtype in (float32, int64, np.dtype(bool)) else [f"dtype={self.dtype}"]
        notes += [] if self.device == "cpu" else [f"device={self.device!r}"]
        notes += [f"from={self.node.op.name}"] if self.node else ["requires_grad=True"] if self.requires_grad else []
        return f"tensor({', '.join([values, *notes])})"

    # ----- what leaves the library --------------------------------------------------------------------------------

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array that cannot be written to; from a GPU, a copy (this waits for the GPU)."""
        values = to_host(self.data).view()
        values.flags.writeable = False
        return values

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if self.requires_grad:
            raise TypeError(
                "a Tensor that requires a gradient becomes no NumPy array, which would lose the gradient: write "
                "x.detach().numpy(), or use tensorlite's function"
            )
        if self.device != "cpu":
            raise TypeError(f"a Tensor on {self.device} is not copied to the CPU unasked: call .numpy()")
        return np.array(self.numpy(), dtype=dtype, copy=copy)  # not writable where it is this Tensor's memory

    def item(self) -> float | int | bool:
        """The value of a one-element Tensor as a Python number (from a GPU: waits for it)."""
        if self.size != 1:
            raise ValueError(f"item: only a Tensor of one element is a number, not shape {self.shape}")
        return to_host(self.data).item()

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        return to_host(self.data).tolist()

    def _number(self, what: str) -> float | int | bool:
        if self.size != 1:
            raise TypeError(f"{what}: only a Tensor of one element is a number, not shape {self.shape}")
        return self.item()

    # fmt: off
    def __float__(self) -> float: return float(self._number("float"))
    def __int__(self) -> int: return int(self._number("int"))
    def __round__(self, ndigits: int | None = None) -> float | int: return round(self._number("round"), ndigits)
    def __format__(self, spec: str) -> str: return format(self._number("format"), spec) if spec else str(self)
    # fmt: on

    def __index__(self) -> int:
        if self.ndim or self.dtype.kind not in "iu":
            raise TypeError(f"an index is a 0-d Tensor of integers, not {self.dtype} of shape {self.shape}")
        return int(self.item())

    def __complex__(self) -> complex:
        raise TypeError("complex: Tensors hold no complex numbers: write float(x)")

    def detach(self) -> "Tensor":
        return ops.detach(self)

    def clone(self) -> "Tensor":
        return ops.clone(self)

    def astype(self, dtype) -> "Tensor":
        return ops.astype(self, dtype)

    def to(self, device: str) -> "Tensor":
        return ops.to(self, device)

    # ----- copies -------------------------------------------------------------------------------------------------

    def __copy__(self) -> "Tensor":
        """Another Tensor of the same memory and the same place in the graph, with a `.grad` of its own: None."""
        state: Any = super().__getstate__()
        attributes, slots = state
        new = object.__new__(type(self))
        for name, value in {**(attributes or {}), **slots, "grad": None}.items():
            setattr(new, name, value)
        return new

    def __getstate__(self) -> tuple:
        """For copy.deepcopy and pickle: values, requires_grad and `.grad`. What an op computed is refused.

        A multiprocessing.Queue pickles in a thread of its own: the refusal is printed there, and nothing arrives.
        """
        if self.node is not None:
            raise TypeError(
                f"a Tensor computed by {self.node.op.name} cannot be deep-copied or pickled, because the graph that it "
                "belongs to is not copied: use .detach() first"
            )
        state: Any = super().__getstate__()
        attributes, slots = state
        return attributes, {**slots, "_version": [0]}

    # ----- operators ----------------------------------------------------------------------------------------------
    # fmt: off
    def __add__(self, y) -> "Tensor": return ops.add(self, y)
    def __radd__(self, x) -> "Tensor": return ops.add(x, self)
    def __sub__(self, y) -> "Tensor": return ops.sub(self, y)
    def __rsub__(self, x) -> "Tensor": return ops.sub(x, self)
    def __mul__(self, y) -> "Tensor": return ops.mul(self, y)
    def __rmul__(self, x) -> "Tensor": return ops.mul(x, self)
    def __truediv__(self, y) -> "Tensor": return ops.div(self, y)
    def __rtruediv__(self, x) -> "Tensor": return ops.div(x, self)
    def __pow__(self, y) -> "Tensor": return ops.pow(self, y)
    def __rpow__(self, x) -> "Tensor": return ops.pow(x, self)
    def __matmul__(self, y) -> "Tensor": return ops.matmul(self, y)
    def __rmatmul__(self, x) -> "Tensor": return ops.matmul(x, self)
    def __neg__(self) -> "Tensor": return ops.neg(self)
    def __pos__(self) -> "Tensor": return self
    def __abs__(self) -> "Tensor": return ops.abs(self)
    def __eq__(self, y) -> "Tensor": return ops.equal(self, y)  # type: ignore[override]
    def __ne__(self, y) -> "Tensor": return ops.not_equal(self, y)  # type: ignore[override]
    def __lt__(self, y) -> "Tensor": return ops.less(self, y)
    def __le__(self, y) -> "Tensor": return ops.less_equal(self, y)
    def __gt__(self, y) -> "Tensor": return ops.greater(self, y)
    def __ge__(self, y) -> "Tensor": return ops.greater_equal(self, y)
    def __and__(self, y) -> "Tensor": return ops.bitwise_and(self, y)
    def __rand__(self, x) -> "Tensor": return ops.bitwise_and(x, self)
    def __or__(self, y) -> "Tensor": return ops.bitwise_or(self, y)
    def __ror__(self, x) -> "Tensor": return ops.bitwise_or(x, self)
    def __xor__(self, y) -> "Tensor": return ops.bitwise_xor(self, y)
    def __rxor__(self, x) -> "Tensor": return ops.bitwise_xor(x, self)
    def __invert__(self) -> "Tensor": return ops.invert(self)
    def __getitem__(self, index) -> "Tensor": return ops.getitem(self, index)

    # ----- methods: ops.py documents them -------------------------------------------------------------------------
    def exp(self) -> "Tensor": return ops.exp(self)
    def expm1(self) -> "Tensor": return ops.expm1(self)
    def log(self) -> "Tensor": return ops.log(self)
    def log1p(self) -> "Tensor": return ops.log1p(self)
    def sqrt(self) -> "Tensor": return ops.sqrt(self)
    def rsqrt(self) -> "Tensor": return ops.rsqrt(self)
    def square(self) -> "Tensor": return ops.square(self)
    def reciprocal(self) -> "Tensor": return ops.reciprocal(self)
    def abs(self) -> "Tensor": return ops.abs(self)
    def sign(self) -> "Tensor": return ops.sign(self)
    def sin(self) -> "Tensor": return ops.sin(self)
    def cos(self) -> "Tensor": return ops.cos(self)
    def tanh(self) -> "Tensor": return ops.tanh(self)
    def sigmoid(self) -> "Tensor": return ops.sigmoid(self)
    def erf(self) -> "Tensor": return ops.erf(self)
    def floor(self) -> "Tensor": return ops.floor(self)
    def ceil(self) -> "Tensor": return ops.ceil(self)
    def round(self) -> "Tensor": return ops.round(self)
    def maximum(self, y) -> "Tensor": return ops.maximum(self, y)
    def minimum(self, y) -> "Tensor": return ops.minimum(self, y)
    def clip(self, low=None, high=None) -> "Tensor": return ops.clip(self, low, high)
    def isnan(self) -> "Tensor": return ops.isnan(self)
    def isinf(self) -> "Tensor": return ops.isinf(self)
    def isfinite(self) -> "Tensor": return ops.isfinite(self)
    def sum(self, axis=None, keepdims=False) -> "Tensor": return ops.sum(self, axis=axis, keepdims=keepdims)
    def mean(self, axis=None, keepdims=False) -> "Tensor": return derived.mean(self, axis, keepdims)
    def var(self, axis=None, ddof=0, keepdims=False) -> "Tensor": return derived.var(self, axis, ddof, keepdims)
    def std(self, axis=None, ddof=0, keepdims=False) -> "Tensor": return derived.std(self, axis, ddof, keepdims)
    def prod(self, axis=None, keepdims=False) -> "Tensor": return derived.prod(self, axis, keepdims)
    def max(self, axis=None, keepdims=False) -> "Tensor": return ops.max(self, axis=axis, keepdims=keepdims)
    def min(self, axis=None, keepdims=False) -> "Tensor": return ops.min(self, axis=axis, keepdims=keepdims)
    def argmax(self, axis=None, keepdims=False) -> "Tensor": return ops.argmax(self, axis=axis, keepdims=keepdims)
    def argmin(self, axis=None, keepdims=False) -> "Tensor": return ops.argmin(self, axis=axis, keepdims=keepdims)
    def all(self, axis=None, keepdims=False) -> "Tensor": return ops.all(self, axis=axis, keepdims=keepdims)
    def any(self, axis=None, keepdims=False) -> "Tensor": return ops.any(self, axis=axis, keepdims=keepdims)
    def logsumexp(self, axis=None, keepdims=False) -> "Tensor": return ops.logsumexp(self, axis=axis, keepdims=keepdims)
    def norm(self, axis=None, keepdims=False) -> "Tensor": return derived.norm(self, axis, keepdims)
    def cumsum(self, axis=None) -> "Tensor": return ops.cumsum(self, axis)
    def cumprod(self, axis=None) -> "Tensor": return derived.cumprod(self, axis)
    def sort(self, axis=-1) -> "Tensor": return ops.sort(self, axis)
    def argsort(self, axis=-1) -> "Tensor": return ops.argsort(self, axis=axis)
    def topk(self, k, axis=-1) -> tuple["Tensor", "Tensor"]: return derived.topk(self, k, axis)
    def transpose(self, *axes) -> "Tensor": return ops.transpose(self, _tuple(axes) or None)
    def reshape(self, *shape) -> "Tensor": return ops.reshape(self, _tuple(shape))
    def swapaxes(self, a, b) -> "Tensor": return ops.swapaxes(self, a, b)
    def expand_dims(self, axis) -> "Tensor": return ops.expand_dims(self, axis)
    def squeeze(self, axis=None) -> "Tensor": return derived.squeeze(self, axis)
    def broadcast_to(self, *shape) -> "Tensor": return ops.broadcast_to(self, _tuple(shape))
    def split(self, sections, axis=0) -> list["Tensor"]: return derived.split(self, sections, axis)
    def repeat(self, repeats, axis=None) -> "Tensor": return derived.repeat(self, repeats, axis)
    def tile(self, reps) -> "Tensor": return derived.tile(self, reps)
    def flip(self, axis=None) -> "Tensor": return ops.flip(self, axis)
    def roll(self, shift, axis=None) -> "Tensor": return derived.roll(self, shift, axis)
    def pad(self, widths, value=0.0) -> "Tensor": return derived.pad(self, widths, value)
    def tril(self, k=0) -> "Tensor": return ops.tril(self, k=k)
    def triu(self, k=0) -> "Tensor": return ops.triu(self, k=k)
    def diagonal(self, offset=0, axis1=0, axis2=1) -> "Tensor": return derived.diagonal(self, offset, axis1, axis2)
    def take_along_axis(self, indices, axis=-1) -> "Tensor": return ops.take_along_axis(self, indices, axis)
    def masked_fill(self, mask, value) -> "Tensor": return derived.masked_fill(self, mask, value)
    def matmul(self, y) -> "Tensor": return ops.matmul(self, y)
    def outer(self, y) -> "Tensor": return derived.outer(self, y)
    # fmt: on


suggestions.adapt(Tensor)
Variable.result = Tensor  # what ops return


def _tuple(values: tuple) -> tuple:
    """`f(2, 3)` and `f((2, 3))` mean the same."""
    return tuple(values[0]) if len(values) == 1 and isinstance(values[0], (tuple, list)) else values


# ----- creation ---------------------------------------------------------------------------------------------------


def tensor(data, dtype=None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A new Tensor holding a copy of `data`: a number, nested lists, an array or a Tensor.

    Python floats become float32 and ints int64 unless `dtype` says otherwise; arrays keep their dtype. Ragged lists
    raise ValueError; strings, objects and complex numbers raise TypeError; so does requires_grad on a dtype that is
    not floating.
    """
    if isinstance(data, Tensor):
        data = data.data
    if refused := unusable_array(data):
        raise TypeError(f"tensor: {refused}")
    if is_array(data):
        checked_dtype(data.dtype)
        array = to_device(data, device or device_of(data))
        array = array.astype(data.dtype if dtype is None else checked_dtype(dtype))  # always a copy
    else:
        array = _from_python(data, dtype)
        array = to_device(array, device)
    return _make(array, requires_grad)


def _from_python(data, dtype) -> np.ndarray:
    if isinstance(data, (list, tuple)):
        for kind, each in {type(each): each for each in data}.items():
            if not issubclass(kind, Variable) and (refused := unusable_array(each)):
                raise TypeError(f"tensor: {refused}")
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
    """`values`, if an integer `dtype` holds them all once floats are truncated; else OverflowError or ValueError."""
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


def _does_not_fit(value, dtype: np.dtype) -> str:
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.iinfo(int64)
    return f"{value} does not fit in {dtype}, which holds {limits.min} to {limits.max}: choose a wider dtype"


def _make(array: Array, requires_grad: bool = False) -> Tensor:
    checked_dtype(array.dtype)
    return Tensor(array, requires_grad)


def zeros(shape, dtype=float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    return _make(create(device, "zeros", checked_shape(shape), checked_dtype(dtype)), requires_grad)


def ones(shape, dtype=float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    return _make(create(device, "ones", checked_shape(shape), checked_dtype(dtype)), requires_grad)


def full(shape, value, dtype=None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """All elements `value`, a number; float32 for a Python float, int64 for an int."""
    if not isinstance(value, (int, float, np.generic)):
        raise TypeError(f"full: value must be a number, not {type(value).__name__}")
    dtype = checked_dtype(dtype) if dtype is not None else float32 if isinstance(value, float) else None
    if dtype is not None:
        _fitting(np.asarray(value), dtype)
    return _make(create(device, "full", checked_shape(shape), value, dtype), requires_grad)


def empty(shape, dtype=float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Uninitialised memory: write to all of it before you read."""
    return _make(create(device, "empty", checked_shape(shape), checked_dtype(dtype)), requires_grad)


def zeros_like(x: Tensor, dtype=None) -> Tensor:
    return zeros(x.shape, x.dtype if dtype is None else dtype, x.device)


def ones_like(x: Tensor, dtype=None) -> Tensor:
    return ones(x.shape, x.dtype if dtype is None else dtype, x.device)


def full_like(x: Tensor, value, dtype=None) -> Tensor:
    return full(x.shape, value, x.dtype if dtype is None else dtype, x.device)


def empty_like(x: Tensor, dtype=None) -> Tensor:
    return empty(x.shape, x.dtype if dtype is None else dtype, x.device)


def arange(start, stop=None, step=1, dtype=None, device: str | None = None) -> Tensor:
    """start, start + step, ... below stop; int64 for ints, float32 for floats."""
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ValueError("arange: step must not be 0")
    if dtype is None:
        dtype = float32 if any(isinstance(v, float) for v in (start, stop, step)) else int64
    return _make(create(device, "arange", start, stop, step, dtype=checked_dtype(dtype)))


def linspace(start: float, stop: float, num: int = 50, dtype=float32, device: str | None = None) -> Tensor:
    """`num` equally spaced values from start to stop, both included."""
    return _make(create(device, "linspace", start, stop, num, dtype=checked_dtype(dtype)))


def eye(n: int, m: int | None = None, dtype=float32, device: str | None = None) -> Tensor:
    return _make(create(device, "eye", n, m, dtype=checked_dtype(dtype)))


# ----- random numbers: torch's CPU stream (random.py) ---------------------------------------------------------------


def _random(values: np.ndarray, device: str | None, requires_grad: bool = False) -> Tensor:
    return _make(to_device(values, device), requires_grad)


def rand(*shape, dtype=float32, device=None, generator: Generator | None = None, requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1)."""
    values = stream(generator).rand(checked_shape(_tuple(shape)), dtype=checked_dtype(dtype))
    return _random(values, device, requires_grad)


def randn(
    *shape, dtype=float32, device=None, generator: Generator | None = None, requires_grad: bool = False
) -> Tensor:
    """Normal with mean 0 and standard deviation 1."""
    values = stream(generator).randn(checked_shape(_tuple(shape)), dtype=checked_dtype(dtype))
    return _random(values, device, requires_grad)


def randint(low: int, high: int, shape, device=None, generator: Generator | None = None) -> Tensor:
    """int64, uniform in [low, high)."""
    return _random(stream(generator).randint(low, high, checked_shape(shape)), device)


def randperm(n: int, device=None, generator: Generator | None = None) -> Tensor:
    """A random order of 0 .. n - 1, int64."""
    return _random(stream(generator).randperm(n), device)


def multinomial(p, num_samples: int = 1, *, replacement: bool = False, generator: Generator | None = None) -> Tensor:
    """Indices drawn with probabilities proportional to the last axis of `p`; one of probability 0 is never drawn."""
    p = p if isinstance(p, Tensor) else tensor(p)
    drawn = stream(generator).multinomial(to_host(p.data), num_samples, replacement=replacement)
    return _random(drawn, p.device)
