"""THE TABLE: every primitive with its derivative rules, and the ops that are compositions of them.

Read a line as mathematics: `g` is the gradient of the loss by `out`; a rule returns the gradient by its argument.
Inside a rule stand operators, methods that arrays and Tensors share, and the ops of this file, never `xp`: that makes
each rule differentiable in turn. An op takes NumPy's words (`axis`, `keepdims`) and works on Tensors and on arrays.

Conventions where a derivative does not exist: ties of max, min, maximum and minimum share the gradient equally; `abs`,
`sign` and `relu` have 0 at 0; `clip` passes the gradient at its bounds; `norm` and `std` have 0 where they are 0;
`x**0` has 0 everywhere, `0**y` has 0 in y for y >= 0. Elsewhere the value is NumPy's, so sqrt has inf at 0.
"""

import builtins
import math
from collections.abc import Sequence

from .autograd import Variable
from .backend import device_of, is_array, is_floating, to_device, xp
from .primitive import elementwise, primitive, publish, unbroadcast
from .special import erf as _erf

# fmt: off
# ruff: noqa: E501, E731, A001
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
_power      = elementwise(lambda x, y: x ** y)                      .vjp(lambda g, x, y: where(y == 0, 0, g * y * _power(x, where(y == 0, 1, y - 1))),
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
_clip       = elementwise(lambda x, *, low, high: xp(x).clip(x, low, high)).vjp(lambda g, x, low, high: where((x >= low) & (x <= high), g, 0))
where       = elementwise(lambda condition, x, y: xp(condition).where(condition, x, y)).vjp(None, lambda g, condition: where(condition, g, 0), lambda g, condition: where(condition, 0, g))

# ----- piecewise constant: the derivative is 0 wherever there is one ------------------------------------------------

sign        = elementwise(lambda x: xp(x).sign(x))                  .vjp(lambda g: zeros_like(g))
floor       = elementwise(lambda x: xp(x).floor(x))                 .vjp(lambda g: zeros_like(g))
ceil        = elementwise(lambda x: xp(x).ceil(x))                  .vjp(lambda g: zeros_like(g))
round       = elementwise(lambda x: xp(x).round(x))                 .vjp(lambda g: zeros_like(g))
zeros_like  = primitive(lambda x: xp(x).zeros_like(x))              .vjp(None)
ones_like   = primitive(lambda x: xp(x).ones_like(x))               .vjp(None)

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
isnan         = elementwise(lambda x: xp(x).isnan(x))               .vjp(None)
isinf         = elementwise(lambda x: xp(x).isinf(x))               .vjp(None)
isfinite      = elementwise(lambda x: xp(x).isfinite(x))            .vjp(None)

# ----- reductions ---------------------------------------------------------------------------------------------------

sum         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).sum(x, axis=axis, keepdims=keepdims))      .vjp(lambda g, x_shape, axis, keepdims: spread(g, x_shape, axis, keepdims))
max         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).max(x, axis=axis, keepdims=keepdims))      .vjp(lambda g, x, out, axis, keepdims: _share_among(g, x, out, axis, keepdims))
min         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).min(x, axis=axis, keepdims=keepdims))      .vjp(lambda g, x, out, axis, keepdims: _share_among(g, x, out, axis, keepdims))
logsumexp   = primitive(lambda x, *, axis=None, keepdims=False: _logsumexp(x, axis, keepdims))                   .vjp(lambda g, x, out, axis, keepdims: spread(g, x.shape, axis, keepdims) * exp(x - spread(out, x.shape, axis, keepdims)))
_cumsum     = primitive(lambda x, *, axis: xp(x).cumsum(x, axis=axis))                                           .vjp(lambda g, axis: flip(cumsum(flip(g, axis), axis), axis))
argmax      = primitive(lambda x, *, axis=None, keepdims=False: xp(x).argmax(x, axis=axis, keepdims=keepdims))   .vjp(None)
argmin      = primitive(lambda x, *, axis=None, keepdims=False: xp(x).argmin(x, axis=axis, keepdims=keepdims))   .vjp(None)
all         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).all(x, axis=axis, keepdims=keepdims))      .vjp(None)
any         = primitive(lambda x, *, axis=None, keepdims=False: xp(x).any(x, axis=axis, keepdims=keepdims))      .vjp(None)
argsort     = primitive(lambda x, *, axis=-1: xp(x).argsort(x, axis=axis, kind="stable"))                        .vjp(None)

# ----- shapes: the rule undoes the move -----------------------------------------------------------------------------

_reshape    = primitive(lambda x, *, shape: x.reshape(shape))                       .vjp(lambda g, x_shape: g.reshape(x_shape))
_transpose  = primitive(lambda x, *, axes: xp(x).transpose(x, axes))                .vjp(lambda g, axes: transpose(g, _inverse(axes)))
_broadcast  = primitive(lambda x, *, shape: xp(x).broadcast_to(x, shape))           .vjp(lambda g, x_shape: unbroadcast(g, x_shape))
_getitem    = primitive(lambda x, *, index: x[index])                               .vjp(lambda g, x_shape, index: scatter_add(g, index=index, shape=x_shape))
scatter_add = primitive(lambda x, *, index, shape: _scatter_add(x, index, shape))   .vjp(lambda g, index: getitem(g, index))
_pad        = primitive(lambda x, *, widths, value: xp(x).pad(x, widths, constant_values=value)).vjp(lambda g, x_shape, widths: g[tuple([slice(w, w + n) for (w, _), n in zip(widths, x_shape)])])
_concat     = primitive(lambda *xs, axis: xp(xs[0]).concatenate(xs, axis=axis))     .vjp(lambda g, index, xs_shape, axis: g[_piece(xs_shape, index, axis)])
tril        = primitive(lambda x, *, k=0: xp(x).tril(x, k))                         .vjp(lambda g, k: tril(g, k=k))
triu        = primitive(lambda x, *, k=0: xp(x).triu(x, k))                         .vjp(lambda g, k: triu(g, k=k))

# ----- products -----------------------------------------------------------------------------------------------------

matmul      = primitive(lambda x, y: xp(x).matmul(x, y))                            .vjp(lambda g, x_shape, y: _matmul_by_x(g, x_shape, y), lambda g, x, y_shape: _matmul_by_y(g, x, y_shape))
_einsum     = primitive(lambda *xs, terms, into: xp(xs[0]).einsum(",".join(terms) + "->" + into, *xs, optimize=len(xs) > 1)).vjp(lambda g, index, xs, terms, into: _einsum_by(g, index, xs, terms, into))

# ----- copies -------------------------------------------------------------------------------------------------------

_astype     = primitive(lambda x, *, dtype: x.astype(dtype))                        .vjp(lambda g: g)  # the engine casts back
clone       = primitive(lambda x: x.copy())                                         .vjp(lambda g: g)
_to         = primitive(lambda x, *, device, source: to_device(x, device))          .vjp(lambda g, device, source: _to(g, device=source, source=device))
# fmt: on


# ----- what the table calls ---------------------------------------------------------------------------------------


def _sigmoid(x):
    z = xp(x).exp(-xp(x).abs(x))  # never overflows, and keeps the digits of both tails
    return xp(x).where(x >= 0, 1, z) / (1 + z)


def _share(g, x, y, worse):
    """The gradient of a choice between x and y: half at a tie, none where it was not chosen."""
    return where(x == y, g * 0.5, where(worse, 0, g))


def _share_among(g, x, out, axis, keepdims):
    """The gradient of an extreme value: equal parts to all places that attain it."""
    chosen = (x == spread(out, x.shape, axis, keepdims)).astype(g.dtype)
    return spread(g, x.shape, axis, keepdims) * (chosen / chosen.sum(axis=axis, keepdims=True))


def _logsumexp(x, axis, keepdims):
    top = xp(x).max(x, axis=axis, keepdims=True)
    top = xp(x).where(xp(x).isfinite(top), top, 0)  # inf - inf is nan
    total = xp(x).log(xp(x).sum(xp(x).exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else total.reshape(xp(x).sum(x, axis=axis).shape)


def spread(x, shape: tuple[int, ...], axis, keepdims: bool = False):
    """Repeat a reduction's result over the axes that it reduced: the transpose of `sum`."""
    if not keepdims and axis is not None:
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


def _has_arrays(index) -> bool:
    """Whether `index` holds an integer array: only these can name a place twice."""
    return builtins.any(is_array(i) and i.dtype.kind in "iu" for i in (index if isinstance(index, tuple) else (index,)))


def _piece(shapes, index: int, axis: int):
    """Where the argument `index` of a concatenation stands in its result."""
    start = builtins.sum(shape[axis] for shape in shapes[:index])
    return (slice(None),) * (axis % len(shapes[0])) + (slice(start, start + shapes[index][axis]),)


def _matmul_by_x(g, x_shape, y):
    g = _as_matrices(g, len(x_shape), y.ndim)
    y = y if y.ndim > 1 else expand_dims(y, 1)
    shape = x_shape if len(x_shape) > 1 else (1, *x_shape)
    return unbroadcast(matmul(g, y.swapaxes(-1, -2)), shape).reshape(x_shape)


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


# ----- arithmetic and reductions as compositions ------------------------------------------------------------------


def pow(x, y):
    """x**y. A Python number as `y` (the usual case) has its own primitive."""
    if isinstance(y, (int, float)):
        return _powern(x, n=y)
    if isinstance(x, (int, float)):  # log(x) is asked for: an array of y's dtype keeps float32 what it is
        x = xp(_raw(y)).asarray(x, dtype=y.dtype)
    return _power(x, y)


def clip(x, low=None, high=None):
    """`x` limited to [low, high] (numbers; None: no limit). The gradient passes at the limits."""
    return _clip(x, low=-math.inf if low is None else low, high=math.inf if high is None else high)


def mean(x, axis=None, keepdims=False):
    """The mean over `axis` (None: over all elements). Integers have to be cast first."""
    _must_float("mean", x)
    return sum(x, axis=axis, keepdims=keepdims) / _count(x.shape, axis)


def var(x, axis=None, ddof=0, keepdims=False):
    """The variance: sum((x - mean)**2) / (n - ddof), in two passes, so that large means lose no digits."""
    _must_float("var", x)
    distance = x - mean(x, axis=axis, keepdims=True)
    return sum(square(distance), axis=axis, keepdims=keepdims) / builtins.max(_count(x.shape, axis) - ddof, 0)


def std(x, axis=None, ddof=0, keepdims=False):
    """The square root of `var`; its gradient is 0 where it is 0."""
    return _root(var(x, axis=axis, ddof=ddof, keepdims=keepdims))


def norm(x, axis=None, keepdims=False):
    """The Euclidean norm sqrt(sum(x**2)); its gradient is 0 at 0."""
    return _root(sum(square(x), axis=axis, keepdims=keepdims))


def prod(x, axis=None, keepdims=False):
    """The product, by halves: made of multiplications alone, its derivatives of any order are right at zeros too."""
    axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = sorted(_axis(a, x.ndim) for a in axes)
    shape = tuple([1 if i in axes else n for i, n in enumerate(x.shape)]) if keepdims else None
    rest = [i for i in range(x.ndim) if i not in axes]
    count = math.prod(x.shape[i] for i in axes)
    x = transpose(x, (*axes, *rest)).reshape((count, *[x.shape[i] for i in rest]))  # (*axes, *rest) -> (count, *rest)
    if count == 0:
        return ones_like(sum(x, axis=0)) if shape is None else ones_like(sum(x, axis=0)).reshape(shape)
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        pairs = x[:half] * x[half : 2 * half]
        x = concatenate([pairs, x[2 * half :]]) if x.shape[0] % 2 else pairs
    return x[0] if shape is None else x[0].reshape(shape)


def cumsum(x, axis=None):
    """The running sum along `axis` (None: of the flattened array)."""
    return _cumsum(reshape(x, (x.size,)), axis=0) if axis is None else _cumsum(x, axis=_axis(axis, x.ndim))


def cumprod(x, axis=None):
    """The running product along `axis` (None: of the flattened array), by doubling strides: right at zeros too."""
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    before, step = (slice(None),) * _axis(axis, x.ndim), 1
    while step < x.shape[axis]:
        head, tail, shifted = x[(*before, slice(step))], x[(*before, slice(step, None))], x[(*before, slice(-step))]
        x, step = concatenate([head, tail * shifted], axis=axis), step * 2
    return x


def sort(x, axis=-1):
    """`x` in ascending order along `axis`, nan last."""
    return take_along_axis(x, argsort(x, axis=axis), axis)


def topk(x, k: int, axis=-1):
    """The `k` largest along `axis` in descending order, and their indices; of equals, the lower index comes first."""
    size = x.shape[_axis(axis, x.ndim)]
    if not 0 <= k <= size:
        raise ValueError(f"topk: k must be between 0 and {size} (the size of axis {axis}), not {k}")
    first = (slice(None),) * _axis(axis, x.ndim) + (slice(k),)
    indices = size - 1 - flip(argsort(flip(detach(x), axis), axis=axis), axis)[first]
    return take_along_axis(x, indices, axis), indices


def _axis(axis: int, ndim: int) -> int:
    if not -ndim <= axis < ndim:
        raise IndexError(f"axis {axis} is out of range for {ndim} dimensions: choose from {-ndim} to {ndim - 1}")
    return axis % ndim


def _count(shape, axis) -> int:
    """How many elements a reduction over `axis` takes together."""
    axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return math.prod(shape[_axis(a, len(shape))] for a in axes)


def _must_float(name: str, x) -> None:
    if not is_floating(x.dtype):
        raise TypeError(f"{name}: {x.dtype} has no mean: cast it first, x.astype(float32)")


def _raw(x):
    return x.data if isinstance(x, Variable) else x


# ----- shapes as compositions -------------------------------------------------------------------------------------


def reshape(x, shape):
    """The same elements in C order under another shape; one length may be -1."""
    return _reshape(x, shape=shape if isinstance(shape, tuple) else tuple(shape) if isinstance(shape, list) else (shape,))


def transpose(x, axes=None):
    """The axes in the order given (None: reversed)."""
    return _transpose(x, axes=axes)


def swapaxes(x, a: int, b: int):
    """Two axes exchanged."""
    order = list(range(x.ndim))
    a, b = _axis(a, x.ndim), _axis(b, x.ndim)
    order[a], order[b] = b, a
    return _transpose(x, axes=tuple(order))


def expand_dims(x, axis: int):
    """A new axis of length 1 at position `axis`."""
    axis = _axis(axis, x.ndim + 1)
    return reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))


def squeeze(x, axis=None):
    """Without the axes of length 1 (or without those given, which must have length 1)."""
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axis is None else axis if isinstance(axis, tuple) else (axis,)
    gone = {_axis(a, x.ndim) for a in axes}
    if wrong := [a for a in gone if x.shape[a] != 1]:
        raise ValueError(f"squeeze: axis {wrong[0]} of shape {x.shape} has length {x.shape[wrong[0]]}, not 1")
    return reshape(x, tuple([n for i, n in enumerate(x.shape) if i not in gone]))


def broadcast_to(x, shape):
    """`x` repeated to `shape` by NumPy's broadcasting rules, without copying."""
    return _broadcast(x, shape=shape)


def concatenate(xs: Sequence, axis: int = 0):
    """Arrays joined along an axis that they have."""
    if not xs:
        raise ValueError("concatenate: give at least one Tensor")
    return _concat(*xs, axis=_axis(axis, xs[0].ndim))


def stack(xs: Sequence, axis: int = 0):
    """Arrays of one shape joined along a new axis."""
    return concatenate([expand_dims(x, axis) for x in xs], _axis(axis, xs[0].ndim + 1) if xs else 0)


def split(x, indices_or_sections, axis: int = 0) -> list:
    """Cut along `axis`, as NumPy does: into a number of equal parts, or before each of the given positions."""
    axis = _axis(axis, x.ndim)
    size, cuts = x.shape[axis], indices_or_sections
    if isinstance(cuts, int):
        if cuts < 1 or size % cuts:
            raise ValueError(f"split: axis {axis} of length {size} cannot be cut into {cuts} equal parts")
        cuts = range(size // cuts, size, size // cuts) if size else [0] * (cuts - 1)
    starts, before = [0, *cuts], (slice(None),) * axis
    return [x[(*before, slice(a, b))] for a, b in zip(starts, [*cuts, size], strict=True)]


def repeat(x, repeats: int, axis=None):
    """Each element `repeats` times in a row along `axis` (None: of the flattened array)."""
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    axis = _axis(axis, x.ndim)
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    copies = broadcast_to(expand_dims(x, axis + 1), (*before, size, repeats, *after))
    return reshape(copies, (*before, size * repeats, *after))  # (..., size, repeats, ...) -> (..., size * repeats, ...)


def tile(x, reps):
    """The whole of `x` repeated `reps` times (an int, or a tuple of one per axis, aligned on the right)."""
    reps = reps if isinstance(reps, tuple) else (reps,)
    shape = (1,) * (len(reps) - x.ndim) + tuple(x.shape)
    reps = (1,) * (len(shape) - len(reps)) + reps
    apart = tuple([n for size in shape for n in (1, size)])
    copies = broadcast_to(reshape(x, apart), tuple([n for pair in zip(reps, shape, strict=True) for n in pair]))
    return reshape(copies, tuple([r * n for r, n in zip(reps, shape, strict=True)]))  # (r, n, ...) -> (r * n, ...)


def flip(x, axis=None):
    """The order reversed along `axis` (an int or a tuple; None: along every axis)."""
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    reverse = {_axis(a, x.ndim) for a in axes}
    return getitem(x, tuple([slice(None, None, -1) if i in reverse else slice(None) for i in range(x.ndim)]))


def roll(x, shift: int, axis=None):
    """Elements moved on by `shift` places along `axis`, around the end (None: in the flattened array)."""
    if axis is None:
        return reshape(roll(reshape(x, (x.size,)), shift, 0), x.shape)
    before, size = (slice(None),) * _axis(axis, x.ndim), x.shape[axis]
    cut = size - shift % size if size else 0
    return concatenate([x[(*before, slice(cut, None))], x[(*before, slice(cut))]], axis)


def pad(x, widths, value: float = 0.0):
    """Constant borders. `widths`: an int for all, a pair (before, after) for all, or one pair per axis."""
    if isinstance(widths, int):
        widths = (widths, widths)
    if widths and isinstance(widths[0], int):
        widths = [widths] * x.ndim
    if len(widths) != x.ndim or builtins.any(len(pair) != 2 or builtins.min(pair) < 0 for pair in widths):
        raise ValueError(f"pad: widths must be {x.ndim} pairs of non-negative ints, not {widths}")
    return _pad(x, widths=tuple([tuple(pair) for pair in widths]), value=value)


# ----- indexing ---------------------------------------------------------------------------------------------------


def getitem(x, index):
    """`x[index]`: slices, integers, integer arrays, booleans, None, Ellipsis. Indices that repeat get added gradients."""
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple([xp(_raw(x)).asarray(i) if isinstance(i, list) else _raw(i) for i in parts])
    return _getitem(x, index=parts if isinstance(index, tuple) else parts[0])


def take_along_axis(x, indices, axis: int = -1):
    """For each place of `indices`, the element of `x` there along `axis` (the other axes must agree)."""
    indices, axis = _raw(indices), _axis(axis, x.ndim)
    if indices.ndim != x.ndim:
        raise ValueError(f"take_along_axis: indices have {indices.ndim} dimensions, x has {x.ndim}: they must agree")
    lib = xp(indices)
    grid = [lib.arange(n).reshape([n if i == j else 1 for j in range(x.ndim)]) for i, n in enumerate(indices.shape)]
    grid[axis] = indices
    return getitem(x, tuple(grid))


def masked_fill(x, mask, value: float):
    """`x` with `value` where `mask` is true; no gradient flows there, not even from inf or nan."""
    return where(mask, value, x)


def diagonal(x, offset: int = 0, axis1: int = 0, axis2: int = 1):
    """The diagonal of two axes, as the last axis of the result."""
    a, b = _axis(axis1, x.ndim), _axis(axis2, x.ndim)
    if a == b:
        raise ValueError(f"diagonal: axis1 and axis2 are both {a}")
    x = transpose(x, (*[i for i in range(x.ndim) if i not in (a, b)], a, b))
    rows, columns = builtins.max(-offset, 0), builtins.max(offset, 0)
    size = builtins.max(0, builtins.min(x.shape[-2] - rows, x.shape[-1] - columns))
    steps = xp(_raw(x)).arange(size)
    return getitem(x, (Ellipsis, steps + rows, steps + columns))


# ----- products as compositions -----------------------------------------------------------------------------------


def outer(x, y):
    """x_i y_j of two vectors."""
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(f"outer: give two vectors, not shapes {x.shape} and {y.shape}")
    return expand_dims(x, 1) * expand_dims(y, 0)


def einsum(equation: str, *xs):
    """Einstein's summation, as in NumPy: "bij,bjk->bik". Repeated labels in a term take the diagonal; "..." broadcasts.

    The equation is brought to a form in which each label of a term stands in another term or in the output, so that
    the derivative by one argument is again an einsum: of the incoming gradient with the other arguments.
    """
    terms, out = _parse_einsum(equation, xs)
    xs = list(xs)
    for i, term in enumerate(terms):
        while repeated := [c for c in dict.fromkeys(term) if term.count(c) > 1]:
            a, b = [k for k, c in enumerate(term) if c == repeated[0]][:2]
            xs[i] = diagonal(xs[i], 0, a, b)
            term = "".join(c for k, c in enumerate(term) if k not in (a, b)) + repeated[0]
        elsewhere = out + "".join(t for j, t in enumerate(terms) if j != i)
        alone = tuple([k for k, c in enumerate(term) if c not in elsewhere])
        if alone:
            xs[i] = sum(xs[i], axis=alone)
        terms[i] = "".join(c for c in term if c in elsewhere)
    return _einsum(*xs, terms=tuple(terms), into=out)


def _parse_einsum(equation: str, xs) -> tuple[list[str], str]:
    """The terms and output with "..." spelled out in capitals that are free; sizes checked."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(xs):
        raise ValueError(f"einsum: {equation!r} has {len(terms)} terms for {len(xs)} arguments")
    free = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in equation]
    hidden = [x.ndim - len(t.replace("...", "")) if "..." in t else 0 for t, x in zip(terms, xs, strict=True)]
    widest = "".join(free[: builtins.max(hidden, default=0)])
    terms = [t.replace("...", widest[len(widest) - n :]) for t, n in zip(terms, hidden, strict=True)]
    if not arrow:
        labels = "".join(terms)
        out = ("..." if widest else "") + "".join(sorted(c for c in set(labels) if labels.count(c) == 1 and c not in widest))
    out = out.replace("...", widest)
    sizes: dict[str, int] = {}
    for term, x in zip(terms, xs, strict=True):
        if len(term) != x.ndim or not term.isalpha() and term:
            raise ValueError(f"einsum: term {term!r} of {equation!r} does not fit an argument of shape {x.shape}")
        for label, size in zip(term, x.shape, strict=True):
            if sizes.setdefault(label, size) != size:
                raise ValueError(f"einsum: label {label!r} of {equation!r} is both {sizes[label]} and {size} long")
    if set(out) - set(sizes) or len(set(out)) < len(out):
        raise ValueError(f"einsum: output {out!r} of {equation!r} must name labels of the terms, each once")
    return terms, out


# ----- copies as compositions -------------------------------------------------------------------------------------


def astype(x, dtype):
    """`x` converted to `dtype`; the gradient comes back in the dtype of `x`."""
    return x if x.dtype == dtype else _astype(x, dtype=dtype)


def detach(x):
    """The same values, cut off from the graph (memory is shared; so is the version that guards it)."""
    return Variable.result(x.data, False, None, x._version) if isinstance(x, Variable) else x


def to(x, device: str):
    """`x` on another device; the gradient travels back."""
    from_device = device_of(_raw(x))
    return x if device == from_device else _to(x, device=device, source=from_device)


publish(globals())
