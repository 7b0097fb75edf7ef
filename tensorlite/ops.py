"""THE TABLE: every primitive with its derivative rules. derived.py has the functions that are composed of these.

How to read a line: on the left the forward function, in `.vjp(...)` one derivative rule per argument. In a rule, `g` is
the gradient of the loss with respect to the result `out`. The rule returns the gradient with respect to its argument (a
vector-Jacobian product); None in its place says that the op is not differentiable in that argument. `xp(x)` is the
library of the array x, NumPy or CuPy (backend.py). Forward functions get arrays and use it. Rules get arrays or Tensors
and use operators, methods that both have, and the ops of this file, so a rule can itself be differentiated. Its other
parameters name what it needs and what is saved for it: an argument, the result `out`, a keyword argument, or a shape
(`x_shape`); primitive.py has the list. Python's own sum, max, min, abs, all and any are in `builtins` here.

`elementwise` arguments broadcast, and what their rules return is summed over the axes that broadcasting has added;
`move` only moves elements, in their dtype; all other ops are `primitive`. Ops have NumPy's names for arguments (`axis`,
`keepdims`) and accept Tensors and arrays. A name that begins with _ is the primitive that the function of the same
name, further below, calls after it has checked its arguments.

Conventions where a derivative does not exist: ties of max, min, maximum and minimum share the gradient equally; `abs`,
`sign` and `relu` have 0 at 0; `clip` passes the gradient at its bounds; `norm` and `std` have 0 where they are 0;
`x**0` has 0 everywhere, `0**y` has 0 in y for y >= 0. Everywhere else it is what NumPy computes: sqrt has inf at 0.

The docstrings and signatures of the table's ops are in op_docs.py, their static types in ops.pyi.
"""

import builtins
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .autograd import Variable
from .backend import Scalar, device_of, float32, is_array, is_floating, to_device, xp
from .errors.checks import checked_axes, checked_axis, checked_order, checked_shape
from .indexing import canonical, index_error
from .op_docs import document
from .primitive import astype, elementwise, move, primitive, publish, unbroadcast
from .promotion import promote_narrow
from .special import erf as _erf
from .typing import ArrayLike, Axis, Operand, Shape

if TYPE_CHECKING:
    from .tensor import Tensor

# fmt: off
__all__ = [
    "add", "sub", "mul", "div", "floor_divide", "remainder", "neg", "pow", "abs", "square", "sqrt", "rsqrt",
    "reciprocal", "exp", "expm1", "log", "log1p", "log2", "sin", "cos", "tanh", "sigmoid", "softplus", "erf", "maximum",
    "minimum", "clip", "where", "sign", "floor", "ceil", "round", "equal", "not_equal", "less", "less_equal", "greater",
    "greater_equal", "logical_and", "logical_or", "logical_xor", "logical_not", "bitwise_and", "bitwise_or",
    "bitwise_xor", "invert", "isnan", "isinf", "isfinite", "sum", "max", "min", "argmax", "argmin", "logsumexp",
    "cumsum", "all", "any", "sort", "argsort", "take_along_axis", "reshape", "transpose", "swapaxes", "expand_dims",
    "broadcast_to", "concatenate", "flip", "tril", "triu", "getitem", "scatter_add", "matmul", "astype", "detach",
    "clone", "to",
]

# ----- arithmetic ---------------------------------------------------------------------------------------------------

add         = elementwise(lambda x, y: x + y)                 .vjp(lambda g: g, lambda g: g)
sub         = elementwise(lambda x, y: x - y)                 .vjp(lambda g: g, lambda g: -g)
mul         = elementwise(lambda x, y: x * y)                 .vjp(lambda g, y: g * y, lambda g, x: g * x)
div         = elementwise(lambda x, y: x / y)                 .vjp(lambda g, y: g / y, lambda g, out, y: -g * out / y)  # -g x / y^2
floor_divide = elementwise(lambda x, y: x // y)               .vjp(lambda g: zeros_like(g), lambda g: zeros_like(g))
remainder   = elementwise(lambda x, y: x % y)                 .vjp(lambda g: g, lambda g, x, y: -g * floor_divide(x, y))  # x - y floor(x / y)
neg         = elementwise(lambda x: -x)                       .vjp(lambda g: -g)
abs         = elementwise(lambda x: xp(x).abs(x))             .vjp(lambda g, x: g * sign(x))
square      = elementwise(lambda x: x * x)                    .vjp(lambda g, x: g * 2 * x)
sqrt        = elementwise(lambda x: xp(x).sqrt(x))            .vjp(lambda g, out: g * 0.5 / out)
rsqrt       = elementwise(lambda x: 1 / xp(x).sqrt(x))        .vjp(lambda g, out: g * -0.5 * out * out * out)
reciprocal  = elementwise(lambda x: 1 / x)                    .vjp(lambda g, out: -g * out * out)
_power      = elementwise(lambda x, y: x ** y)                .vjp(lambda g, x, y: _power_by_x(g, x, y),
                                                                   lambda g, x, y, out: _power_by_y(g, x, y, out))
_powern     = elementwise(lambda x, *, n: x ** n)             .vjp(lambda g, x, n: _powern_by_x(g, x, n))
_root       = elementwise(lambda x: xp(x).sqrt(x))            .vjp(lambda g, out: _root_by_x(g, out))

# ----- elementary functions -----------------------------------------------------------------------------------------

exp         = elementwise(lambda x: xp(x).exp(x))             .vjp(lambda g, out: g * out)
expm1       = elementwise(lambda x: xp(x).expm1(x))           .vjp(lambda g, out: g * (out + 1))
log         = elementwise(lambda x: xp(x).log(x))             .vjp(lambda g, x: g / x)
log1p       = elementwise(lambda x: xp(x).log1p(x))           .vjp(lambda g, x: g / (1 + x))
log2        = elementwise(lambda x: xp(x).log2(x))            .vjp(lambda g, x: g / (x * math.log(2)))
sin         = elementwise(lambda x: xp(x).sin(x))             .vjp(lambda g, x: g * cos(x))
cos         = elementwise(lambda x: xp(x).cos(x))             .vjp(lambda g, x: -g * sin(x))
tanh        = elementwise(lambda x: xp(x).tanh(x))            .vjp(lambda g, out: g * (1 - out * out))
sigmoid     = elementwise(lambda x: _sigmoid(x))              .vjp(lambda g, out: g * out * (1 - out))
softplus    = elementwise(lambda x: xp(x).logaddexp(x, 0))    .vjp(lambda g, x: g * sigmoid(x))
erf         = elementwise(lambda x: _erf(x)).vjp(
                          lambda g, x: g * (2 / math.sqrt(math.pi)) * exp(-x * x))

# ----- choices ------------------------------------------------------------------------------------------------------

maximum     = elementwise(lambda x, y: xp(x).maximum(x, y))   .vjp(lambda g, x, y: _share(g, x, y, x < y),
                                                                   lambda g, x, y: _share(g, x, y, y < x))
minimum     = elementwise(lambda x, y: xp(x).minimum(x, y))   .vjp(lambda g, x, y: _share(g, x, y, y < x),
                                                                   lambda g, x, y: _share(g, x, y, x < y))
_clip       = elementwise(lambda x, low, high: xp(x).clip(x, low, high)).vjp(
                          lambda g, x, low, high: where(_is_within(x, low, high), g, 0),
                          lambda g, x, low, high: where(_is_below(x, low, high), g, 0),
                          lambda g, x, low, high: where(_is_above(x, low, high), g, 0))
where       = elementwise(lambda condition, x, y: xp(condition).where(condition, x, y)).vjp(None,
                          lambda g, condition: where(condition, g, 0),
                          lambda g, condition: where(condition, 0, g))

# ----- piecewise constant: the derivative is 0 wherever there is one ------------------------------------------------

sign        = elementwise(lambda x: xp(x).sign(x))            .vjp(lambda g: zeros_like(g))
floor       = elementwise(lambda x: xp(x).floor(x))           .vjp(lambda g: zeros_like(g))
ceil        = elementwise(lambda x: xp(x).ceil(x))            .vjp(lambda g: zeros_like(g))
round       = elementwise(lambda x: xp(x).round(x))           .vjp(lambda g: zeros_like(g))
zeros_like  = move(lambda x: xp(x).zeros_like(x))             .vjp(None)
ones_like   = move(lambda x: xp(x).ones_like(x))              .vjp(None)

# ----- comparisons and logic ----------------------------------------------------------------------------------------

equal         = elementwise(lambda x, y: x == y)                    .vjp(None, None)
not_equal     = elementwise(lambda x, y: x != y)                    .vjp(None, None)
less          = elementwise(lambda x, y: x < y)                     .vjp(None, None)
less_equal    = elementwise(lambda x, y: x <= y)                    .vjp(None, None)
greater       = elementwise(lambda x, y: x > y)                     .vjp(None, None)
greater_equal = elementwise(lambda x, y: x >= y)                    .vjp(None, None)
logical_and   = elementwise(lambda x, y: xp(x).logical_and(x, y))   .vjp(None, None)
logical_or    = elementwise(lambda x, y: xp(x).logical_or(x, y))    .vjp(None, None)
logical_xor   = elementwise(lambda x, y: xp(x).logical_xor(x, y))   .vjp(None, None)
logical_not   = elementwise(lambda x: xp(x).logical_not(x))         .vjp(None)
bitwise_and   = elementwise(lambda x, y: x & y)                     .vjp(None, None)
bitwise_or    = elementwise(lambda x, y: x | y)                     .vjp(None, None)
bitwise_xor   = elementwise(lambda x, y: x ^ y)                     .vjp(None, None)
invert        = elementwise(lambda x: ~x)                           .vjp(None)
isnan         = elementwise(lambda x: xp(x).isnan(x))               .vjp(None)
isinf         = elementwise(lambda x: xp(x).isinf(x))               .vjp(None)
isfinite      = elementwise(lambda x: xp(x).isfinite(x))            .vjp(None)

# ----- reductions ---------------------------------------------------------------------------------------------------

sum         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).sum(x, axis=axis, keepdims=keepdims)).vjp(
                        lambda g, x_shape, axis, keepdims: expand_like(g, x_shape, axis, keepdims))
max         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).max(x, axis=axis, keepdims=keepdims)).vjp(
                        lambda g, x, out, axis, keepdims: _share_among(g, x, out, axis, keepdims))
min         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).min(x, axis=axis, keepdims=keepdims)).vjp(
                        lambda g, x, out, axis, keepdims: _share_among(g, x, out, axis, keepdims))
logsumexp   = primitive(lambda x, *, axis=None, keepdims=False: _logsumexp(x, axis, keepdims)).vjp(
                        lambda g, x, out, axis, keepdims: _logsumexp_by_x(g, x, out, axis, keepdims))
argmax      = primitive(lambda x, *, axis=None, keepdims=False: xp(x).argmax(x, axis=axis, keepdims=keepdims)).vjp(None)
argmin      = primitive(lambda x, *, axis=None, keepdims=False: xp(x).argmin(x, axis=axis, keepdims=keepdims)).vjp(None)
all         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).all(x, axis=axis, keepdims=keepdims)).vjp(None)
any         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).any(x, axis=axis, keepdims=keepdims)).vjp(None)
_cumsum     = primitive(lambda x, *, axis: xp(x).cumsum(x, axis=axis)).vjp(lambda g, axis: _cumsum_by_x(g, axis))
_sort       = primitive(lambda x, *, axis: xp(x).sort(x, axis=axis))  .vjp(lambda g, x, axis: _sort_by_x(g, x, axis))
argsort     = primitive(lambda x, *, axis=-1: xp(x).argsort(x, axis=axis, kind="stable")).vjp(None)
_largest    = primitive(lambda x, *, k: _indices_of_largest(x, k)).vjp(None)

# ----- shapes: the rule undoes the move -----------------------------------------------------------------------------

_reshape    = move(lambda x, *, shape: x.reshape(shape))            .vjp(lambda g, x_shape: g.reshape(x_shape))
_transpose  = move(lambda x, *, axes: xp(x).transpose(x, axes))     .vjp(lambda g, axes: transpose(g, _inverse(axes)))
_broadcast  = move(lambda x, *, shape: xp(x).broadcast_to(x, shape)).vjp(lambda g, x_shape: unbroadcast(g, x_shape))
_getitem    = move(lambda x, *, index: x[index]).vjp(
                   lambda g, x_shape, index: _scatter(g, index=index, shape=x_shape))
_scatter    = primitive(lambda x, *, index, shape: _scatter_add(x, index, shape)).vjp(
                        lambda g, x_shape, index: unbroadcast(_getitem(g, index=index), x_shape))
_pad        = move(lambda x, *, widths, value: xp(x).pad(x, widths, constant_values=value)).vjp(
                        lambda g, x_shape, widths: g[_inside(widths, x_shape)])
_concat     = primitive(lambda *xs, axis: xp(xs[0]).concatenate(xs, axis=axis)).vjp(
                        lambda g, index, xs_shape, axis: g[_piece(xs_shape, index, axis)])
tril        = move(lambda x, *, k=0: _matrices(x).tril(x, k))       .vjp(lambda g, k: tril(g, k=k))
triu        = move(lambda x, *, k=0: _matrices(x).triu(x, k))       .vjp(lambda g, k: triu(g, k=k))

# ----- products -----------------------------------------------------------------------------------------------------

matmul      = primitive(lambda x, y: xp(x).matmul(x, y)).vjp(
                        lambda g, x_shape, y: _matmul_by_x(g, x_shape, y),
                        lambda g, x, y_shape: _matmul_by_y(g, x, y_shape))
_einsum     = primitive(lambda *xs, terms, into: _einsum_forward(xs, terms, into)).vjp(
                        lambda g, index, xs, terms, into: _einsum_by(g, index, xs, terms, into))

# ----- copies -------------------------------------------------------------------------------------------------------

clone       = move(lambda x: x.copy())                              .vjp(lambda g: g)
_to         = move(lambda x, *, device, source: to_device(x, device)).vjp(
                   lambda g, device, source: _to(g, device=source, source=device))
# fmt: on


# ----- what the table calls: values ---------------------------------------------------------------------------------


def _sigmoid(x):
    x = _float(x)
    z = xp(x).exp(-xp(x).abs(x))  # never overflows, and keeps the digits of both tails
    return xp(x).where(x >= 0, 1, z) / (1 + z)


def _float(x):
    """Integers and booleans as float32: -x and x - y of small ones would wrap."""
    return x.astype(float32) if x.dtype.kind in "iub" else x


def _logsumexp(x, axis, keepdims):
    """log(sum(exp(x))), computed with exponents of at most 0 so that exp cannot overflow."""
    x = _float(x)
    top = xp(x).max(x, axis=axis, keepdims=True)
    top = xp(x).where(xp(x).isfinite(top), top, 0)  # inf - inf is nan
    total = xp(x).log(xp(x).sum(xp(x).exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else total.reshape(xp(x).sum(x, axis=axis).shape)


def _matrices(x):
    """The library of `x`, which must have the two axes of a matrix."""
    if x.ndim < 2:
        raise ValueError("a triangle needs two axes: give a matrix or a stack of matrices")
    return xp(x)


def _scatter_add(x, index, shape):
    """Zeros of `shape` with `x` added at `index`; indices that repeat add up."""
    out = xp(x).zeros(shape, dtype=x.dtype)
    if _has_arrays(index):
        xp(x).add.at(out, index, x)
    else:  # slices never repeat a place
        out[index] = x
    return out


def _has_arrays(index: tuple) -> bool:
    """Whether `index` holds an integer array: only these can name a place twice."""
    return builtins.any(is_array(i) and i.dtype.kind in "iu" for i in index)


def _einsum_forward(xs, terms, into):
    return xp(xs[0]).einsum(",".join(terms) + "->" + into, *xs, optimize=len(xs) > 1)


# ----- what the table calls: rules ----------------------------------------------------------------------------------


def _power_by_x(g, x, y):
    """g y x**(y - 1), and 0 where y is 0. There only 0**-1 and nan are avoided, so that the derivative of this
    by y stays 1 / x for any other x.
    """
    flat = (y == 0) & ((x == 0) | (x != x))
    return where(flat, 0, g * y * _power(x, where(flat, 1, y - 1)))


def _power_by_y(g, x, y, out):
    """g x**y log(x), and 0 where x is 0 and y >= 0."""
    return g * out * log(where((x == 0) & (y >= 0), 1, x))


def _powern_by_x(g, x, n):
    """g n x**(n - 1), and 0 where n is 0."""
    return g * n * pow(x, n - 1) if n else zeros_like(g)


def _root_by_x(g, out):
    """The derivative of sqrt, and 0 where that is infinite, at 0."""
    return where(out == 0, 0, g * 0.5 / where(out == 0, 1, out))


def _share(g, x, y, worse):
    """The gradient of a choice between x and y: half at a tie, none where it was not chosen."""
    return where(x == y, g * 0.5, where(worse, 0, g))


def _share_among(g, x, out, axis, keepdims):
    """The gradient of an extreme value: equal parts to all places that attain it."""
    chosen = (x == expand_like(out, x.shape, axis, keepdims)).astype(g.dtype)
    return expand_like(g, x.shape, axis, keepdims) * (chosen / chosen.sum(axis=axis, keepdims=True))


def expand_like(x, shape: tuple[int, ...], axis, keepdims: bool):
    """Repeat a reduction's result over the axes that it reduced: the transpose of `sum`."""
    if not keepdims and axis is not None and shape:  # (NumPy reduces a 0-d array over axis 0 too)
        reduced = {a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))}
        x = x.reshape(tuple([1 if i in reduced else n for i, n in enumerate(shape)]))
    return broadcast_to(x, shape)


def _logsumexp_by_x(g, x, out, axis, keepdims):
    """g softmax(x)."""
    return expand_like(g, x.shape, axis, keepdims) * exp(x - expand_like(out, x.shape, axis, keepdims))


def _cumsum_by_x(g, axis):
    """The running sum from the other end."""
    return flip(cumsum(flip(g, axis), axis), axis)


def _indices_of_largest(x, k: int):
    """The indices (..., k), in ascending order, of the k largest along the last axis of x (..., n).

    nan counts as the largest; of equals, the lower index is taken. A partition is much faster than a sort.
    """
    if k == 0:
        return xp(x).zeros((*x.shape[:-1], 0), int)
    least = xp(x).partition(x, x.shape[-1] - k, axis=-1)[..., -k, None]  # the smallest that is taken, (..., 1)
    is_nan = least != least
    above = ~((x <= least) | is_nan)
    equal = (x == least) | ((x != x) & is_nan)
    room = k - above.sum(axis=-1, keepdims=True)
    taken = above | (equal & (equal.cumsum(axis=-1) <= room))
    return xp(x).nonzero(taken)[-1].reshape((*x.shape[:-1], k))  # k of each row, in C order -> (..., k)


def _sort_by_x(g, x, axis):
    """Each gradient goes back to the place that its element came from: the inverse permutation."""
    return take_along_axis(g, argsort(argsort(x, axis=axis), axis=axis), axis)


def _inverse(axes):
    """The order of axes that undoes a transposition."""
    return None if axes is None else tuple(sorted(range(len(axes)), key=lambda i: axes[i] % len(axes)))


def _inside(widths, shape):
    """The slices of a padded array that hold the array of `shape`."""
    return tuple([slice(before, before + n) for (before, _), n in zip(widths, shape, strict=True)])


def _piece(shapes, index: int, axis: int):
    """The slices of a concatenation that hold its argument `index`."""
    start = builtins.sum(shape[axis] for shape in shapes[:index])
    return (slice(None),) * axis + (slice(start, start + shapes[index][axis]),)


def _matmul_by_x(g, x_shape, y):
    """g @ y^T, in the shape of x."""
    g = _as_matrices(g, len(x_shape), y.ndim)
    y = y if y.ndim > 1 else expand_dims(y, 1)
    return unbroadcast(matmul(g, y.swapaxes(-1, -2)), x_shape)


def _matmul_by_y(g, x, y_shape):
    """x^T @ g, in the shape of y: the sum over all positions."""
    g = _as_matrices(g, x.ndim, len(y_shape))
    x = x if x.ndim > 1 else expand_dims(x, 0)
    if len(y_shape) == 2 and x.ndim > 2:  # one large product instead of a sum of many
        rows = math.prod(x.shape[:-1])
        x, g = x.reshape((rows, x.shape[-1])), g.reshape((rows, g.shape[-1]))  # (..., M, K) -> (rows, K)
    shape = y_shape if len(y_shape) > 1 else (*y_shape, 1)
    return unbroadcast(matmul(x.swapaxes(-1, -2), g), shape).reshape(y_shape)


def _as_matrices(g, x_ndim: int, y_ndim: int):
    """Give back to a product's gradient the axes that it lost because an argument was a vector."""
    g = g if x_ndim > 1 else expand_dims(g, -1 if y_ndim == 1 else -2)
    return g if y_ndim > 1 else expand_dims(g, -1)


def _einsum_by(g, index, xs, terms, into):
    """The einsum of g with the other arguments, into the term of this one."""
    others = [i for i in range(len(xs)) if i != index]
    return _einsum(g, *[xs[i] for i in others], terms=(into, *[terms[i] for i in others]), into=terms[index])


# ----- functions around primitives ----------------------------------------------------------------------------------


def pow(x: Operand, y: Operand) -> "Tensor":
    """x**y, elementwise with broadcasting. A Python number as `y` (the usual case) has a primitive of its own.

    Derivative by x: y x**(y - 1), and 0 where y is 0. By y: x**y log(x), and 0 where x is 0 and y >= 0; it is nan where
    x is negative.
    """
    if isinstance(y, (int, float)):
        return _powern(x, n=y.item() if isinstance(y, Scalar) else y)
    return _power_of_number(y, x) if isinstance(x, (int, float)) else _power(x, y)


@promote_narrow
def _power_of_number(y, x):
    """x**y. A rule takes log(x), so the number `x` becomes an array: of y's dtype where that can hold it."""
    dtype = y.dtype
    if not is_floating(dtype) and isinstance(x, float):
        dtype = float32
    elif dtype.kind == "b":
        dtype = None  # NumPy's integers
    return _power(xp(_raw(y)).asarray(x, dtype=dtype), y)


def clip(x: Operand, low: "Operand | None" = None, high: "Operand | None" = None) -> "Tensor":
    """`x` limited to [low, high]: numbers or arrays that broadcast, None for no limit; where low > high, it is `high`.

    Derivative: `g` goes to `x` inside the limits and at them, and beyond a limit to that limit.
    """
    return clone(x) if low is None and high is None else _clip(x, low, high)


def _is_within(x, low, high):
    return x <= high if low is None else x >= low if high is None else (x >= low) & (x <= high)


def _is_below(x, low, high):
    return x < low if high is None else (x < low) & (low <= high)


def _is_above(x, low, high):
    return x > high if low is None else (x > high) | (low > high)


def cumsum(x: ArrayLike, axis: int | None = None) -> "Tensor":
    """The running sum along `axis` (None: of the flattened array). IndexError for an axis that `x` does not have.

    Derivative: the running sum of `g` from the other end.
    """
    return _cumsum(reshape(x, (x.size,)), axis=0) if axis is None else _cumsum(x, axis=checked_axis(axis, x.ndim))


def sort(x: ArrayLike, axis: int | None = -1) -> "Tensor":
    """`x` in ascending order along `axis` (None: of the flattened array), nan last.

    IndexError for an axis that `x` does not have. Derivative: each element of `g` goes back to where its element was.
    """
    return _sort(reshape(x, (x.size,)), axis=0) if axis is None else _sort(x, axis=checked_axis(axis, x.ndim))


def reshape(x: ArrayLike, shape: Shape) -> "Tensor":
    """The same elements, in C order, in another `shape`, where one length may be -1: what is left for it.

    The memory is shared where that is possible. ValueError where the number of elements is not the same.
    """
    return _reshape(
        x, shape=shape if isinstance(shape, tuple) else tuple(shape) if isinstance(shape, list) else (shape,)
    )


def transpose(x: ArrayLike, axes: Sequence[int] | None = None) -> "Tensor":
    """The axes in the order `axes` (None: reversed), without copying. ValueError unless it names each axis once."""
    return _transpose(x, axes=checked_order(axes, x.ndim))


def swapaxes(x: ArrayLike, a: int, b: int) -> "Tensor":
    """The axes `a` and `b` exchanged, without copying. IndexError for an axis that `x` does not have."""
    order = list(range(x.ndim))
    a, b = checked_axis(a, x.ndim), checked_axis(b, x.ndim)
    order[a], order[b] = b, a
    return _transpose(x, axes=tuple(order))


def expand_dims(x: ArrayLike, axis: int) -> "Tensor":
    """A new axis of length 1 at position `axis` of the result: (3, 5) with axis 1 -> (3, 1, 5)."""
    axis = checked_axis(axis, x.ndim + 1)
    return reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))


def broadcast_to(x: ArrayLike, shape: Shape) -> "Tensor":
    """`x` repeated to `shape` by NumPy's broadcasting rules, without copying. ValueError where it does not broadcast.

    Derivative: `g` summed over the axes along which `x` was repeated.
    """
    return _broadcast(x, shape=shape)


def flip(x: ArrayLike, axis: Axis = None) -> "Tensor":
    """The order reversed along `axis` (an int or a tuple; None: along every axis), without copying."""
    reverse = checked_axes(axis, x.ndim)
    return getitem(x, tuple([slice(None, None, -1) if i in reverse else slice(None) for i in range(x.ndim)]))


def concatenate(xs: Sequence[ArrayLike], axis: int = 0) -> "Tensor":
    """Arrays joined along an existing axis; all other lengths must be equal (ValueError). `stack` makes a new axis.

    Derivative: each argument gets its part of `g`.
    """
    xs = sequence("concatenate", xs)
    if not xs:
        raise ValueError("concatenate: give at least one Tensor")
    return _concat(*xs, axis=checked_axis(axis, xs[0].ndim))


def getitem(x: ArrayLike, index: Any) -> "Tensor":
    """`x[index]`: everything that NumPy allows as an index (indexing.py). Slices share memory, index arrays copy.

    IndexError for what is not an index, and for one out of range (index arrays on a GPU are not checked).
    Derivative: zeros with `g` added at `index`; the gradients of a position that is named twice add up.
    """
    index = canonical(index, _raw(x))
    try:
        return _getitem(x, index=index)
    except (IndexError, TypeError) as error:  # TypeError: of the bounds of a slice
        raise index_error("getitem", error, index, x.shape) from error


def scatter_add(x: ArrayLike, index: Any, shape: Shape) -> "Tensor":
    """Zeros of `shape` with `x` (or what broadcasts to the indexed shape) added at `index`, the transpose of getitem:
    where positions repeat, values add up. Errors as in getitem. Derivative: g[index].
    """
    shape, lib = checked_shape(shape), xp(_raw(x))
    index = canonical(index, _raw(x), shape)
    try:
        place = lib.broadcast_to(lib.zeros(()), shape)[index].shape
        if x.ndim > len(place):  # NumPy's assignment would take leading axes of length 1
            raise ValueError(f"scatter_add: x of shape {x.shape} does not broadcast to the indexed shape {place}")
        return _scatter(x, index=index, shape=shape)
    except IndexError as error:
        raise index_error("scatter_add", error, index, shape) from error


def take_along_axis(x: ArrayLike, indices: ArrayLike, axis: int | None = -1) -> "Tensor":
    """For each place of the integers `indices`, the element of `x` there along `axis`, as in NumPy.

    Both have as many axes, and the lengths of all but `axis` agree or broadcast. None: `x` is flattened, `indices` are
    a vector. TypeError for indices that are not integers, ValueError for shapes that do not fit, IndexError for an
    index out of range. Derivative: as in getitem.
    """
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    axis = checked_axis(axis, x.ndim)
    indices = _raw(indices)
    indices = indices if is_array(indices) else xp(_raw(x)).asarray(indices)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"take_along_axis: indices must be integers, not {indices.dtype}")
    others = zip(x.shape, indices.shape, range(x.ndim), strict=False)
    if indices.ndim != x.ndim or builtins.any(m != n and 1 not in (m, n) and i != axis for m, n, i in others):
        raise ValueError(
            f"take_along_axis: indices of shape {indices.shape} do not fit {x.shape}: "
            f"all axes but axis {axis} must agree"
        )
    lib = xp(indices)
    grid = [lib.arange(n).reshape([n if i == j else 1 for j in range(x.ndim)]) for i, n in enumerate(x.shape)]
    grid[axis] = indices
    return getitem(x, tuple(grid))


def detach(x: ArrayLike) -> "Tensor":
    """The same values without their history: no gradient flows through. Memory, and the version of it, are shared."""
    return Variable.result(x.data, False, None, x._version) if isinstance(x, Variable) else x


def to(x: ArrayLike, device: str) -> "Tensor":
    """`x` on `device` ("cpu", "cuda", "cuda:1"): itself where it is there already. TypeError for a dtype.

    Derivative: `g` on the device of `x`.
    """
    if not isinstance(device, str):
        raise TypeError(
            f"to: a device is 'cpu' or 'cuda', not a {type(device).__name__}; for a dtype write x.astype(dtype)"
        )
    from_device = device_of(_raw(x))
    return x if device == from_device else _to(x, device=device, source=from_device)


def sequence(name: str, xs: Iterable) -> list:
    """A list of the Tensors `xs`; TypeError, in the name of the function `name`, for what is not a sequence."""
    if not isinstance(xs, Iterable):
        raise TypeError(f"{name}: give a list or tuple of Tensors, not {type(xs).__name__}")
    return list(xs)


def _raw(x):
    """The array of a Tensor; an array or a number as it is."""
    return x.data if isinstance(x, Variable) else x


publish(globals(), document)
