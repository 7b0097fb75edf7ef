"""THE TABLE: every primitive with its derivative rules. What is composed of them, without a rule, is in derived.py.

Read a line as mathematics: `g` is the gradient of the loss by `out`; a rule returns the gradient by its argument.
Inside a rule stand operators, methods that arrays and Tensors share, and the ops of this file, never `xp`: that makes
each rule differentiable in turn. An op takes NumPy's words (`axis`, `keepdims`) and works on Tensors and on arrays.

Conventions where a derivative does not exist: ties of max, min, maximum and minimum share the gradient equally; `abs`,
`sign` and `relu` have 0 at 0; `clip` passes the gradient at its bounds; `norm` and `std` have 0 where they are 0;
`x**0` has 0 everywhere, `0**y` has 0 in y for y >= 0. Elsewhere the value is NumPy's, so sqrt has inf at 0.
"""

import builtins
import math
from collections.abc import Iterable, Sequence

from .autograd import Variable
from .backend import Scalar, device_of, float32, is_array, is_floating, to_device, xp
from .errors.checks import checked_axes, checked_axis, checked_order, checked_shape
from .indexing import canonical, explained
from .primitive import astype, elementwise, move, primitive, publish, unbroadcast, wide
from .special import erf as _erf

# fmt: off
__all__ = [
    "add", "sub", "mul", "div", "neg", "pow", "abs", "square", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log",
    "log1p", "sin", "cos", "tanh", "sigmoid", "erf", "maximum", "minimum", "clip", "where", "sign", "floor", "ceil",
    "round", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or",
    "logical_xor", "logical_not", "bitwise_and", "bitwise_or", "bitwise_xor", "invert", "isnan", "isinf", "isfinite", "sum", "max", "min", "argmax", "argmin", "logsumexp",
    "cumsum", "all", "any", "sort", "argsort", "take_along_axis", "reshape", "transpose", "swapaxes", "expand_dims",
    "broadcast_to", "concatenate", "flip", "tril", "triu", "getitem", "scatter_add", "matmul", "astype", "detach", "clone", "to",
]

# ----- arithmetic ---------------------------------------------------------------------------------------------------

add         = elementwise(lambda x, y: x + y)                       .vjp(lambda g: g, lambda g: g)
sub         = elementwise(lambda x, y: x - y)                       .vjp(lambda g: g, lambda g: -g)
mul         = elementwise(lambda x, y: x * y)                       .vjp(lambda g, y: g * y, lambda g, x: g * x)
div         = elementwise(lambda x, y: x / y)                       .vjp(lambda g, y: g / y, lambda g, out, y: -g * out / y)
neg         = elementwise(lambda x: -x)                             .vjp(lambda g: -g)
abs         = elementwise(lambda x: xp(x).abs(x))                   .vjp(lambda g, x: g * sign(x))
square      = elementwise(lambda x: x * x)                          .vjp(lambda g, x: g * 2 * x)
sqrt        = elementwise(lambda x: xp(x).sqrt(x))                  .vjp(lambda g, out: g * 0.5 / out)
rsqrt       = elementwise(lambda x: 1 / xp(x).sqrt(x))              .vjp(lambda g, out: g * -0.5 * out * out * out)
reciprocal  = elementwise(lambda x: 1 / x)                          .vjp(lambda g, out: -g * out * out)
_power      = elementwise(lambda x, y: x ** y)                      .vjp(lambda g, x, y: _power_by_x(g, x, y),
                                                                         lambda g, x, y, out: g * out * log(where((x == 0) & (y >= 0), 1, x)))
_powern     = elementwise(lambda x, *, n: x ** n)                   .vjp(lambda g, x, n: g * n * pow(x, n - 1) if n else zeros_like(g))
_root       = elementwise(lambda x: xp(x).sqrt(x))                  .vjp(lambda g, out: where(out == 0, 0, g * 0.5 / where(out == 0, 1, out)))

# ----- elementary functions -----------------------------------------------------------------------------------------

exp         = elementwise(lambda x: xp(x).exp(x))                   .vjp(lambda g, out: g * out)
expm1       = elementwise(lambda x: xp(x).expm1(x))                 .vjp(lambda g, out: g * (out + 1))
log         = elementwise(lambda x: xp(x).log(x))                   .vjp(lambda g, x: g / x)
log1p       = elementwise(lambda x: xp(x).log1p(x))                 .vjp(lambda g, x: g / (1 + x))
sin         = elementwise(lambda x: xp(x).sin(x))                   .vjp(lambda g, x: g * cos(x))
cos         = elementwise(lambda x: xp(x).cos(x))                   .vjp(lambda g, x: -g * sin(x))
tanh        = elementwise(lambda x: xp(x).tanh(x))                  .vjp(lambda g, out: g * (1 - out * out))
sigmoid     = elementwise(lambda x: _sigmoid(x))                    .vjp(lambda g, out: g * out * (1 - out))
erf         = elementwise(lambda x: _erf(x))                        .vjp(lambda g, x: g * (2 / math.sqrt(math.pi)) * exp(-x * x))

# ----- choices ------------------------------------------------------------------------------------------------------

maximum     = elementwise(lambda x, y: xp(x).maximum(x, y))         .vjp(lambda g, x, y: _share(g, x, y, x < y), lambda g, x, y: _share(g, x, y, y < x))
minimum     = elementwise(lambda x, y: xp(x).minimum(x, y))         .vjp(lambda g, x, y: _share(g, x, y, y < x), lambda g, x, y: _share(g, x, y, x < y))
_clip       = elementwise(lambda x, low, high: xp(x).clip(x, low, high)).vjp(lambda g, x, low, high: where(_is_within(x, low, high), g, 0), lambda g, x, low, high: where(_is_below(x, low, high), g, 0), lambda g, x, low, high: where(_is_above(x, low, high), g, 0))
where       = elementwise(lambda condition, x, y: xp(condition).where(condition, x, y)).vjp(None, lambda g, condition: where(condition, g, 0), lambda g, condition: where(condition, 0, g))

# ----- piecewise constant: the derivative is 0 wherever there is one ------------------------------------------------

sign        = elementwise(lambda x: xp(x).sign(x))                  .vjp(lambda g: zeros_like(g))
floor       = elementwise(lambda x: xp(x).floor(x))                 .vjp(lambda g: zeros_like(g))
ceil        = elementwise(lambda x: xp(x).ceil(x))                  .vjp(lambda g: zeros_like(g))
round       = elementwise(lambda x: xp(x).round(x))                 .vjp(lambda g: zeros_like(g))
zeros_like  = move(lambda x: xp(x).zeros_like(x))                   .vjp(None)
ones_like   = move(lambda x: xp(x).ones_like(x))                    .vjp(None)

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

sum         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).sum(x, axis=axis, keepdims=keepdims))      .vjp(lambda g, x_shape, axis, keepdims: expand_like(g, x_shape, axis, keepdims))
max         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).max(x, axis=axis, keepdims=keepdims))      .vjp(lambda g, x, out, axis, keepdims: _share_among(g, x, out, axis, keepdims))
min         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).min(x, axis=axis, keepdims=keepdims))      .vjp(lambda g, x, out, axis, keepdims: _share_among(g, x, out, axis, keepdims))
logsumexp   = primitive(lambda x, *, axis=None, keepdims=False: _logsumexp(x, axis, keepdims))                   .vjp(lambda g, x, out, axis, keepdims: expand_like(g, x.shape, axis, keepdims) * exp(x - expand_like(out, x.shape, axis, keepdims)))
_cumsum     = primitive(lambda x, *, axis: xp(x).cumsum(x, axis=axis))                                           .vjp(lambda g, axis: flip(cumsum(flip(g, axis), axis), axis))
argmax      = primitive(lambda x, *, axis=None, keepdims=False: xp(x).argmax(x, axis=axis, keepdims=keepdims))   .vjp(None)
argmin      = primitive(lambda x, *, axis=None, keepdims=False: xp(x).argmin(x, axis=axis, keepdims=keepdims))   .vjp(None)
all         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).all(x, axis=axis, keepdims=keepdims))      .vjp(None)
any         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).any(x, axis=axis, keepdims=keepdims))      .vjp(None)
_sort       = primitive(lambda x, *, axis: xp(x).sort(x, axis=axis))                                             .vjp(lambda g, x, axis: take_along_axis(g, argsort(argsort(x, axis=axis), axis=axis), axis))  # the inverse permutation
argsort     = primitive(lambda x, *, axis=-1: xp(x).argsort(x, axis=axis, kind="stable"))                        .vjp(None)

# ----- shapes: the rule undoes the move -----------------------------------------------------------------------------

_reshape    = move(lambda x, *, shape: x.reshape(shape))                            .vjp(lambda g, x_shape: g.reshape(x_shape))
_transpose  = move(lambda x, *, axes: xp(x).transpose(x, axes))                     .vjp(lambda g, axes: transpose(g, _inverse(axes)))
_broadcast  = move(lambda x, *, shape: xp(x).broadcast_to(x, shape))                .vjp(lambda g, x_shape: unbroadcast(g, x_shape))
_getitem    = move(lambda x, *, index: x[index])                                    .vjp(lambda g, x_shape, index: _scatter(g, index=index, shape=x_shape))
_scatter    = primitive(lambda x, *, index, shape: _scatter_add(x, index, shape))   .vjp(lambda g, x_shape, index: unbroadcast(_getitem(g, index=index), x_shape))
_pad        = move(lambda x, *, widths, value: xp(x).pad(x, widths, constant_values=value)).vjp(lambda g, x_shape, widths: g[tuple([slice(w, w + n) for (w, _), n in zip(widths, x_shape, strict=True)])])
_concat     = primitive(lambda *xs, axis: xp(xs[0]).concatenate(xs, axis=axis))     .vjp(lambda g, index, xs_shape, axis: g[_piece(xs_shape, index, axis)])
tril        = move(lambda x, *, k=0: _matrices(x).tril(x, k))                       .vjp(lambda g, k: tril(g, k=k))
triu        = move(lambda x, *, k=0: _matrices(x).triu(x, k))                       .vjp(lambda g, k: triu(g, k=k))

# ----- products -----------------------------------------------------------------------------------------------------

matmul      = primitive(lambda x, y: xp(x).matmul(x, y))                            .vjp(lambda g, x_shape, y: _matmul_by_x(g, x_shape, y), lambda g, x, y_shape: _matmul_by_y(g, x, y_shape))
_einsum     = primitive(lambda *xs, terms, into: xp(xs[0]).einsum(",".join(terms) + "->" + into, *xs, optimize=len(xs) > 1)).vjp(lambda g, index, xs, terms, into: _einsum_by(g, index, xs, terms, into))

# ----- copies -------------------------------------------------------------------------------------------------------

clone       = move(lambda x: x.copy())                                              .vjp(lambda g: g)
_to         = move(lambda x, *, device, source: to_device(x, device))               .vjp(lambda g, device, source: _to(g, device=source, source=device))
# fmt: on


# ----- what the table calls ---------------------------------------------------------------------------------------


def _power_by_x(g, x, y):
    """y x**(y - 1), and for y = 0 always 0; but to see its slope 1/x in y, only 0 and nan are stepped around there."""
    flat = (y == 0) & ((x == 0) | (x != x))
    return where(flat, 0, g * y * _power(x, where(flat, 1, y - 1)))


def _sigmoid(x):
    x = _float(x)
    z = xp(x).exp(-xp(x).abs(x))  # never overflows, and keeps the digits of both tails
    return xp(x).where(x >= 0, 1, z) / (1 + z)


def _float(x):
    """Integers and booleans as float32: -x and x - y of small ones would wrap."""
    return x.astype(float32) if x.dtype.kind in "iub" else x


def _share(g, x, y, worse):
    """The gradient of a choice between x and y: half at a tie, none where it was not chosen."""
    return where(x == y, g * 0.5, where(worse, 0, g))


def _share_among(g, x, out, axis, keepdims):
    """The gradient of an extreme value: equal parts to all places that attain it."""
    chosen = (x == expand_like(out, x.shape, axis, keepdims)).astype(g.dtype)
    return expand_like(g, x.shape, axis, keepdims) * (chosen / chosen.sum(axis=axis, keepdims=True))


def _logsumexp(x, axis, keepdims):
    x = _float(x)
    top = xp(x).max(x, axis=axis, keepdims=True)
    top = xp(x).where(xp(x).isfinite(top), top, 0)  # inf - inf is nan
    total = xp(x).log(xp(x).sum(xp(x).exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else total.reshape(xp(x).sum(x, axis=axis).shape)


def expand_like(x, shape: tuple[int, ...], axis, keepdims: bool):
    """Repeat a reduction's result over the axes that it reduced: the transpose of `sum`."""
    if not keepdims and axis is not None and shape:  # (NumPy reduces a 0-d array over axis 0 too)
        reduced = {a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))}
        x = x.reshape(tuple([1 if i in reduced else n for i, n in enumerate(shape)]))
    return broadcast_to(x, shape)


def _inverse(axes):
    return None if axes is None else tuple(sorted(range(len(axes)), key=lambda i: axes[i] % len(axes)))


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


def _matrices(x):
    """The library of `x`, which must have the two axes of a matrix."""
    if x.ndim < 2:
        raise ValueError("a triangle needs two axes: give a matrix or a stack of matrices")
    return xp(x)


def _piece(shapes, index: int, axis: int):
    """Where the argument `index` of a concatenation stands in its result."""
    start = builtins.sum(shape[axis] for shape in shapes[:index])
    return (slice(None),) * axis + (slice(start, start + shapes[index][axis]),)


def _matmul_by_x(g, x_shape, y):
    g = _as_matrices(g, len(x_shape), y.ndim)
    y = y if y.ndim > 1 else expand_dims(y, 1)
    return unbroadcast(matmul(g, y.swapaxes(-1, -2)), x_shape)


def _matmul_by_y(g, x, y_shape):
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
    others = [i for i in range(len(xs)) if i != index]
    return _einsum(g, *[xs[i] for i in others], terms=(into, *[terms[i] for i in others]), into=terms[index])


# ----- the table's ops as NumPy spells them -----------------------------------------------------------------------


def pow(x, y):
    """x**y. A Python number as `y` (the usual case) has its own primitive."""
    if isinstance(y, (int, float)):
        return _powern(x, n=y.item() if isinstance(y, Scalar) else y)
    return _power_of_number(y, x) if isinstance(x, (int, float)) else _power(x, y)


@wide
def _power_of_number(y, x):
    """x**y. A rule takes log(x), so the number `x` becomes an array: of y's dtype where that can hold it."""
    dtype = y.dtype
    if not is_floating(dtype) and isinstance(x, float):
        dtype = float32
    elif dtype.kind == "b":
        dtype = None  # NumPy's integers
    return _power(xp(_raw(y)).asarray(x, dtype=dtype), y)


def clip(x, low=None, high=None):
    """`x` limited to [low, high]: numbers or arrays that broadcast, None for no limit; where low > high, it is `high`.

    The gradient passes to `x` inside and at the limits, and beyond a limit to that limit.
    """
    return clone(x) if low is None and high is None else _clip(x, low, high)


def _is_within(x, low, high):
    return x <= high if low is None else x >= low if high is None else (x >= low) & (x <= high)


def _is_below(x, low, high):
    return x < low if high is None else (x < low) & (low <= high)


def _is_above(x, low, high):
    return x > high if low is None else (x > high) | (low > high)


def cumsum(x, axis=None):
    """The running sum along `axis` (None: of the flattened array)."""
    return _cumsum(reshape(x, (x.size,)), axis=0) if axis is None else _cumsum(x, axis=checked_axis(axis, x.ndim))


def sort(x, axis: int | None = -1):
    """`x` in ascending order along `axis` (None: of the flattened array), nan last."""
    return _sort(reshape(x, (x.size,)), axis=0) if axis is None else _sort(x, axis=checked_axis(axis, x.ndim))


def reshape(x, shape):
    """The same elements in C order under another shape; one length may be -1."""
    return _reshape(
        x, shape=shape if isinstance(shape, tuple) else tuple(shape) if isinstance(shape, list) else (shape,)
    )


def transpose(x, axes=None):
    """The axes in the order given (None: reversed)."""
    return _transpose(x, axes=checked_order(axes, x.ndim))


def swapaxes(x, a: int, b: int):
    """Two axes exchanged."""
    order = list(range(x.ndim))
    a, b = checked_axis(a, x.ndim), checked_axis(b, x.ndim)
    order[a], order[b] = b, a
    return _transpose(x, axes=tuple(order))


def expand_dims(x, axis: int):
    """A new axis of length 1 at position `axis`."""
    axis = checked_axis(axis, x.ndim + 1)
    return reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))


def broadcast_to(x, shape):
    """`x` repeated to `shape` by NumPy's broadcasting rules, without copying."""
    return _broadcast(x, shape=shape)


def flip(x, axis=None):
    """The order reversed along `axis` (an int or a tuple; None: along every axis)."""
    reverse = checked_axes(axis, x.ndim)
    return getitem(x, tuple([slice(None, None, -1) if i in reverse else slice(None) for i in range(x.ndim)]))


def concatenate(xs: Sequence, axis: int = 0):
    """Arrays joined along an axis that they have."""
    xs = sequence("concatenate", xs)
    if not xs:
        raise ValueError("concatenate: give at least one Tensor")
    return _concat(*xs, axis=checked_axis(axis, xs[0].ndim))


def getitem(x, index):
    """`x[index]`, with NumPy's whole grammar (indexing.py). Gradients of positions that repeat add up.

    IndexError for what is not an index, and for one out of range (index arrays on a GPU are not checked).
    """
    index = canonical(index, _raw(x))
    try:
        return _getitem(x, index=index)
    except (IndexError, TypeError) as error:  # TypeError: of the bounds of a slice
        raise explained("getitem", error, index, x.shape) from error


def scatter_add(x, index, shape: tuple[int, ...]):
    """Zeros of `shape` with `x` (or what broadcasts to the indexed shape) added at `index`, the transpose of getitem:
    where positions repeat, values add up. Errors as in getitem.
    """
    shape, lib = checked_shape(shape), xp(_raw(x))
    index = canonical(index, _raw(x), shape)
    try:
        place = lib.broadcast_to(lib.zeros(()), shape)[index].shape
        if x.ndim > len(place):  # NumPy's assignment would take leading axes of length 1
            raise ValueError(f"scatter_add: x of shape {x.shape} does not broadcast to the indexed shape {place}")
        return _scatter(x, index=index, shape=shape)
    except IndexError as error:
        raise explained("scatter_add", error, index, shape) from error


def take_along_axis(x, indices, axis: int | None = -1):
    """For each place of the integers `indices`, the element of `x` there along `axis`, as in NumPy.

    Both have as many axes, and the lengths of all but `axis` agree or broadcast. None: `x` is flattened, `indices` are
    a vector. TypeError, ValueError or IndexError for what is not so.
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
            f"take_along_axis: indices of shape {indices.shape} do not fit {x.shape}: all axes but axis {axis} must agree"
        )
    lib = xp(indices)
    grid = [lib.arange(n).reshape([n if i == j else 1 for j in range(x.ndim)]) for i, n in enumerate(x.shape)]
    grid[axis] = indices
    return getitem(x, tuple(grid))


def detach(x):
    """The same values, cut off from the graph (memory is shared; so is the version that guards it)."""
    return Variable.result(x.data, False, None, x._version) if isinstance(x, Variable) else x


def to(x, device: str):
    """`x` on another device; the gradient travels back."""
    if not isinstance(device, str):
        raise TypeError(
            f"to: a device is 'cpu' or 'cuda', not a {type(device).__name__}; for a dtype write x.astype(dtype)"
        )
    from_device = device_of(_raw(x))
    return x if device == from_device else _to(x, device=device, source=from_device)


def sequence(name: str, xs) -> list:
    """A list of the Tensors `xs`; TypeError for what is not a sequence."""
    if not isinstance(xs, Iterable):
        raise TypeError(f"{name}: give a list or tuple of Tensors, not {type(xs).__name__}")
    return list(xs)


def _raw(x):
    return x.data if isinstance(x, Variable) else x


publish(globals())
