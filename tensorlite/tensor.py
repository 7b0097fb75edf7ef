"""The class Tensor: an array whose operators and methods record how it was computed. creation.py makes Tensors.

Every operator and method calls the function of the same name in ops.py or derived.py, and has its docstring.
There are no in-place operations: `x += 1` makes a new Tensor and binds the name to it; it raises RuntimeError where `x`
is a leaf that requires a gradient. interop.py lets NumPy's functions work on Tensors; for names of PyTorch that Tensor
does not have, errors/suggestions.py says what to write.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import derived, interop, ops
from .autograd import Variable
from .backend import device_of, float32, int64, to_host
from .errors import suggestions
from .typing import ArrayLike, Axis, DType, Operand, Shape

__all__ = ["Tensor"]


class Tensor(Variable):
    """An n-dimensional array that can be differentiated.

    `.data` is the array, NumPy's or CuPy's. Make a Tensor with `tensor(...)`. After `backward()` a leaf
    has its gradient in `.grad`, a Tensor of the same shape, dtype and device.
    """

    __slots__ = ()
    __array_ufunc__ = interop.ArrayUfunc()  # ndarray * Tensor is a Tensor, and np.exp(Tensor)
    __array_function__ = interop.array_function
    __hash__ = object.__hash__  # `==` compares elements; dicts and sets use identity

    # ----- attributes ---------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return suggestions.Count(self.data.size)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the elements, one of NumPy's (or bfloat16)."""
        return self.data.dtype

    @property
    def device(self) -> str:
        """The device of the data: 'cpu' or 'cuda:<index>'."""
        return device_of(self.data)

    @property
    def is_leaf(self) -> bool:
        """True unless an op computed it from something that requires a gradient."""
        return self.node is None

    @property
    def version(self) -> int:
        """The number of times that an optimizer step or a loaded state has changed the data in place."""
        return self._version[0]

    def changed(self) -> None:
        """Call this after writing to `.data`: a graph that saved the old values raises RuntimeError in backward."""
        self._version[0] += 1

    @property
    def T(self) -> "Tensor":
        """The Tensor with its axes reversed: the transpose of a matrix."""
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

    # ----- conversion to NumPy and Python
    # --------------------------------------------------------------------------------

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array that cannot be written to; from a GPU, a copy (this waits for the GPU)."""
        values = to_host(self.data).view()
        values.flags.writeable = False
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """For np.asarray(x): TypeError where that would lose a gradient or copy from a GPU."""
        if self.requires_grad:
            raise TypeError(
                "a Tensor that requires a gradient cannot become a NumPy array, which would lose the gradient: write "
                "x.detach().numpy(), or use tensorlite's function"
            )
        if self.device != "cpu":
            raise TypeError(f"a Tensor on {self.device} is not copied to the CPU implicitly: call .numpy()")
        return np.array(self.numpy(), dtype=dtype, copy=copy)  # read-only where it shares this Tensor's memory

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

    # fmt: off
    def detach(self) -> "Tensor": return ops.detach(self)
    def clone(self) -> "Tensor": return ops.clone(self)
    def astype(self, dtype: DType) -> "Tensor": return ops.astype(self, dtype)
    def to(self, device: str) -> "Tensor": return ops.to(self, device)
    # fmt: on

    # ----- copies -------------------------------------------------------------------------------------------------

    def __copy__(self) -> "Tensor":
        """A Tensor with the same memory and position in the graph, whose own `.grad` is None."""
        state: Any = super().__getstate__()
        attributes, slots = state
        new = object.__new__(type(self))
        for name, value in {**(attributes or {}), **slots, "grad": None}.items():
            setattr(new, name, value)
        return new

    def __getstate__(self) -> tuple[Any, dict[str, Any]]:
        """For copy.deepcopy and pickle: values, requires_grad and `.grad`. TypeError for the result of an op.

        A multiprocessing.Queue pickles in a separate thread: the error is printed there, and nothing arrives.
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
    def __add__(self, y: Operand) -> "Tensor": return ops.add(self, y)
    def __radd__(self, x: Operand) -> "Tensor": return ops.add(x, self)
    def __sub__(self, y: Operand) -> "Tensor": return ops.sub(self, y)
    def __rsub__(self, x: Operand) -> "Tensor": return ops.sub(x, self)
    def __mul__(self, y: Operand) -> "Tensor": return ops.mul(self, y)
    def __rmul__(self, x: Operand) -> "Tensor": return ops.mul(x, self)
    def __truediv__(self, y: Operand) -> "Tensor": return ops.div(self, y)
    def __rtruediv__(self, x: Operand) -> "Tensor": return ops.div(x, self)
    def __floordiv__(self, y: Operand) -> "Tensor": return ops.floor_divide(self, y)
    def __rfloordiv__(self, x: Operand) -> "Tensor": return ops.floor_divide(x, self)
    def __mod__(self, y: Operand) -> "Tensor": return ops.remainder(self, y)
    def __rmod__(self, x: Operand) -> "Tensor": return ops.remainder(x, self)
    def __pow__(self, y: Operand) -> "Tensor": return ops.pow(self, y)
    def __rpow__(self, x: Operand) -> "Tensor": return ops.pow(x, self)
    def __matmul__(self, y: ArrayLike) -> "Tensor": return ops.matmul(self, y)
    def __rmatmul__(self, x: ArrayLike) -> "Tensor": return ops.matmul(x, self)
    def __neg__(self) -> "Tensor": return ops.neg(self)
    def __pos__(self) -> "Tensor": return self
    def __abs__(self) -> "Tensor": return ops.abs(self)
    def __eq__(self, y: Any) -> "Tensor": return ops.equal(self, y)  # type: ignore[override]  # object's gives bool
    def __ne__(self, y: Any) -> "Tensor": return ops.not_equal(self, y)  # type: ignore[override]  # object's gives bool
    def __lt__(self, y: Operand) -> "Tensor": return ops.less(self, y)
    def __le__(self, y: Operand) -> "Tensor": return ops.less_equal(self, y)
    def __gt__(self, y: Operand) -> "Tensor": return ops.greater(self, y)
    def __ge__(self, y: Operand) -> "Tensor": return ops.greater_equal(self, y)
    def __and__(self, y: Operand) -> "Tensor": return ops.bitwise_and(self, y)
    def __rand__(self, x: Operand) -> "Tensor": return ops.bitwise_and(x, self)
    def __or__(self, y: Operand) -> "Tensor": return ops.bitwise_or(self, y)
    def __ror__(self, x: Operand) -> "Tensor": return ops.bitwise_or(x, self)
    def __xor__(self, y: Operand) -> "Tensor": return ops.bitwise_xor(self, y)
    def __rxor__(self, x: Operand) -> "Tensor": return ops.bitwise_xor(x, self)
    def __invert__(self) -> "Tensor": return ops.invert(self)
    def __getitem__(self, index: Any) -> "Tensor": return ops.getitem(self, index)

    # ----- methods: each has the docstring of the function that it calls -------------------------------------------
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
    def maximum(self, y: Operand) -> "Tensor": return ops.maximum(self, y)
    def minimum(self, y: Operand) -> "Tensor": return ops.minimum(self, y)
    def clip(self, low: "Operand | None" = None, high: "Operand | None" = None) -> "Tensor":
        return ops.clip(self, low, high)
    def isnan(self) -> "Tensor": return ops.isnan(self)
    def isinf(self) -> "Tensor": return ops.isinf(self)
    def isfinite(self) -> "Tensor": return ops.isfinite(self)
    def sum(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return ops.sum(self, axis=axis, keepdims=keepdims)
    def mean(self, axis: Axis = None, keepdims: bool = False) -> "Tensor": return derived.mean(self, axis, keepdims)
    def var(self, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> "Tensor":
        return derived.var(self, axis, ddof, keepdims)
    def std(self, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> "Tensor":
        return derived.std(self, axis, ddof, keepdims)
    def prod(self, axis: Axis = None, keepdims: bool = False) -> "Tensor": return derived.prod(self, axis, keepdims)
    def max(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return ops.max(self, axis=axis, keepdims=keepdims)
    def min(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return ops.min(self, axis=axis, keepdims=keepdims)
    def argmax(self, axis: int | None = None, keepdims: bool = False) -> "Tensor":
        return ops.argmax(self, axis=axis, keepdims=keepdims)
    def argmin(self, axis: int | None = None, keepdims: bool = False) -> "Tensor":
        return ops.argmin(self, axis=axis, keepdims=keepdims)
    def all(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return ops.all(self, axis=axis, keepdims=keepdims)
    def any(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return ops.any(self, axis=axis, keepdims=keepdims)
    def logsumexp(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return ops.logsumexp(self, axis=axis, keepdims=keepdims)
    def norm(self, axis: Axis = None, keepdims: bool = False) -> "Tensor": return derived.norm(self, axis, keepdims)
    def cumsum(self, axis: int | None = None) -> "Tensor": return ops.cumsum(self, axis)
    def cumprod(self, axis: int | None = None) -> "Tensor": return derived.cumprod(self, axis)
    def sort(self, axis: int | None = -1) -> "Tensor": return ops.sort(self, axis)
    def argsort(self, axis: int | None = -1) -> "Tensor": return ops.argsort(self, axis=axis)
    def topk(self, k: int, axis: int = -1) -> tuple["Tensor", "Tensor"]: return derived.topk(self, k, axis)
    def transpose(self, *axes: int | Sequence[int]) -> "Tensor": return ops.transpose(self, tuple_of(axes) or None)
    def reshape(self, *shape: Shape) -> "Tensor": return ops.reshape(self, tuple_of(shape))
    def swapaxes(self, a: int, b: int) -> "Tensor": return ops.swapaxes(self, a, b)
    def expand_dims(self, axis: int) -> "Tensor": return ops.expand_dims(self, axis)
    def squeeze(self, axis: Axis = None) -> "Tensor": return derived.squeeze(self, axis)
    def broadcast_to(self, *shape: Shape) -> "Tensor": return ops.broadcast_to(self, tuple_of(shape))
    def split(self, sections: Shape, axis: int = 0) -> list["Tensor"]: return derived.split(self, sections, axis)
    def repeat(self, repeats: int, axis: int | None = None) -> "Tensor": return derived.repeat(self, repeats, axis)
    def tile(self, reps: Shape) -> "Tensor": return derived.tile(self, reps)
    def flip(self, axis: Axis = None) -> "Tensor": return ops.flip(self, axis)
    def roll(self, shift: Shape, axis: Axis = None) -> "Tensor": return derived.roll(self, shift, axis)
    def pad(self, widths: Any, value: float = 0.0) -> "Tensor": return derived.pad(self, widths, value)
    def tril(self, k: int = 0) -> "Tensor": return ops.tril(self, k=k)
    def triu(self, k: int = 0) -> "Tensor": return ops.triu(self, k=k)
    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> "Tensor":
        return derived.diagonal(self, offset, axis1, axis2)
    def take_along_axis(self, indices: ArrayLike, axis: int | None = -1) -> "Tensor":
        return ops.take_along_axis(self, indices, axis)
    def masked_fill(self, mask: ArrayLike, value: Operand) -> "Tensor": return derived.masked_fill(self, mask, value)
    def matmul(self, y: ArrayLike) -> "Tensor": return ops.matmul(self, y)
    def outer(self, y: ArrayLike) -> "Tensor": return derived.outer(self, y)
    # fmt: on


def tuple_of(values: tuple[Any, ...]) -> tuple[int, ...]:
    """`f(2, 3)` and `f((2, 3))` mean the same: the tuple (2, 3)."""
    return tuple(values[0]) if len(values) == 1 and isinstance(values[0], (tuple, list)) else values


def _document() -> None:
    """Give each method the docstring of the function that it calls."""
    for name, method in vars(Tensor).items():
        function = getattr(ops, name, None) or getattr(derived, name, None)
        if inspect.isfunction(method) and method.__doc__ is None and function is not None:
            method.__doc__ = f"tensorlite.{name} with this Tensor as `x`.\n\n{function.__doc__}"


_document()
suggestions.adapt(Tensor)
Variable.result = Tensor  # what ops return
