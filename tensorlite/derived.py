"""Ops that are compositions of the primitives in ops.py, without derivative rules of their own.

A composition needs a few more nodes than a primitive; in return its derivatives of every order follow from those of its
parts, also at zeros and ties. Names and meanings are NumPy's. All functions accept Tensors and arrays.
"""

import builtins
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import is_array, xp
from .errors.checks import checked_axes, checked_axis
from .indexing import canonical, index_error
from .ops import (
    _einsum,
    _largest,
    _pad,
    _raw,
    _root,
    abs,
    argsort,
    astype,
    broadcast_to,
    concatenate,
    detach,
    expand_dims,
    flip,
    getitem,
    max,
    reshape,
    sequence,
    square,
    sum,
    swapaxes,
    take_along_axis,
    transpose,
    where,
)
from .promotion import promote_narrow, promote_to_float
from .typing import ArrayLike, Axis, Operand, Shape

if TYPE_CHECKING:
    from .tensor import Tensor

__all__ = [
    "mean", "var", "std", "norm", "prod", "cumprod", "topk", "squeeze", "stack", "split", "repeat", "tile", "roll",
    "pad", "masked_fill", "index_put", "scatter", "diagonal", "outer", "einsum",
]  # fmt: skip

# ----- reductions ----------------------------------------------------------------------------------------------------


@promote_to_float
def mean(x: ArrayLike, axis: Axis = None, keepdims: bool = False) -> "Tensor":
    """The mean over `axis` (None: over all elements); float32 for integers and booleans.

    `axis` is an int, a tuple of ints, or None; with `keepdims` the reduced axes stay, with length 1. The mean of no
    elements is nan.
    """
    return sum(x, axis=axis, keepdims=keepdims) / _count(x.shape, axis)


@promote_to_float
def var(x: ArrayLike, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> "Tensor":
    """The variance sum((x - mean)**2) / (n - ddof), in two passes, so that large means lose no digits.

    `axis` and `keepdims` as in `mean`. `ddof` 0 divides by the number of elements n, 1 gives the unbiased estimate.
    """
    distance = x - mean(x, axis=axis, keepdims=True)
    return sum(square(distance), axis=axis, keepdims=keepdims) / builtins.max(_count(x.shape, axis) - ddof, 0)


@promote_to_float
def std(x: ArrayLike, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> "Tensor":
    """The standard deviation, the square root of `var`; its gradient is 0 where it is 0. Arguments as in `var`."""
    return _root(var(x, axis=axis, ddof=ddof, keepdims=keepdims))


@promote_to_float
def norm(x: ArrayLike, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> "Tensor":
    """The norm of the elements over `axis` as one vector: by default Euclidean, sqrt(sum(x**2)).

    `ord` 1 is the sum of the absolute values, `math.inf` the largest of them; ValueError for others. The gradient is 0
    where the norm is 0; ties share it equally. `axis` and `keepdims` as in `mean`. (NumPy's `np.linalg.norm` of a
    matrix with an `ord` is a norm of the matrix: another function.)
    """
    if ord == 1:
        return sum(abs(x), axis=axis, keepdims=keepdims)
    if ord == math.inf:
        return max(abs(x), axis=axis, keepdims=keepdims)
    if ord != 2:
        raise ValueError(f"norm: ord must be 1, 2 or math.inf, not {ord!r:.80}")
    return _root(sum(square(x), axis=axis, keepdims=keepdims))


@promote_narrow
def prod(x: ArrayLike, axis: Axis = None, keepdims: bool = False) -> "Tensor":
    """The product over `axis`, 1 for no elements. `axis` and `keepdims` as in `mean`.

    One half is multiplied by the other until one element is left. There is no division, so derivatives of any order are
    correct at zeros too. Integers and booleans are multiplied in 64 bits.
    """
    x = _large_integers(x)
    axes = sorted(checked_axes(axis, x.ndim))
    shape = tuple([1 if i in axes else n for i, n in enumerate(x.shape)]) if keepdims else None
    rest = [i for i in range(x.ndim) if i not in axes]
    count = math.prod(x.shape[i] for i in axes)
    x = transpose(x, (*axes, *rest)).reshape((count, *[x.shape[i] for i in rest]))  # (*axes, *rest) -> (count, *rest)
    if count == 0:
        x = sum(x, axis=0, keepdims=True) + 1  # 1 for no elements
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        pairs = x[:half] * x[half : 2 * half]
        x = concatenate([pairs, x[2 * half :]]) if x.shape[0] % 2 else pairs
    return x[0] if shape is None else x[0].reshape(shape)


@promote_narrow
def cumprod(x: ArrayLike, axis: int | None = None) -> "Tensor":
    """The running product along `axis` (None: of the flattened array). As in `prod` there is no division."""
    x = _large_integers(x)
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    before, step = (slice(None),) * checked_axis(axis, x.ndim), 1
    while step < x.shape[axis]:
        head, tail, shifted = x[(*before, slice(step))], x[(*before, slice(step, None))], x[(*before, slice(-step))]
        x, step = concatenate([head, tail * shifted], axis=axis), step * 2
    return x


def _large_integers(x: Any) -> Any:
    """Integers and booleans as 64 bits, as in NumPy's sums and products; floats unchanged."""
    kind = x.dtype.kind
    return astype(x, np.dtype("uint64" if kind == "u" else "int64")) if kind in "iub" else x


def _count(shape: tuple[int, ...], axis: Axis) -> int:
    """The number of elements that a reduction over `axis` combines into one."""
    return math.prod(shape[a] for a in checked_axes(axis, len(shape)))


# ----- order and indexing --------------------------------------------------------------------------------------------


def topk(x: ArrayLike, k: int, axis: int = -1) -> tuple["Tensor", "Tensor"]:
    """The `k` largest along `axis` in descending order, and their indices; of equals, the lower index comes first.

    Both results have length `k` along `axis`; the indices are int64. ValueError unless 0 <= k <= that axis' length.
    """
    size = x.shape[checked_axis(axis, x.ndim)]
    if not hasattr(k, "__index__") or not 0 <= k <= size:
        raise ValueError(f"topk: k must be between 0 and {size} (the size of axis {axis}), not {k}")
    rows = swapaxes(detach(x), axis, -1)  # (..., size)
    ascending = _largest(rows, k=int(k))
    values = take_along_axis(rows, ascending, -1)
    order = k - 1 - flip(argsort(flip(values, -1)), -1)  # descending; equals in the order of their indices
    indices = swapaxes(take_along_axis(ascending, order, -1), axis, -1)
    return take_along_axis(x, indices, axis), indices


def masked_fill(x: ArrayLike, mask: ArrayLike, value: Operand) -> "Tensor":
    """`x` with `value` where the boolean `mask` (which broadcasts) is true: where(mask, value, x).

    No gradient flows to `x` there, not even from inf or nan. TypeError for a mask that is not boolean.
    """
    if _raw(mask).dtype != bool:
        raise TypeError(f"masked_fill: the mask must be boolean, not {mask.dtype}: for a 0/1 mask write mask == 1")
    return where(mask, value, x)


def index_put(x: ArrayLike, index: Any, values: Operand) -> "Tensor":
    """A copy of `x` in which the elements at `index` are `values`, which broadcast to the indexed shape.

    `index` is as in x[index]. Where it names an element more than once, one of its values is there (on a CPU the last
    one), and that value gets the gradient; scatter_add adds them up instead. IndexError as in getitem, ValueError where
    the shapes do not fit. Derivative: `g` with 0 at `index` for `x`, g[index] for `values`.
    """
    raw, lib = _raw(x), xp(_raw(x))
    index = canonical(index, raw)
    source = lib.zeros(raw.shape, lib.int64)  # for each element, which of the values comes there, from 1; 0: none
    try:
        shape = source[index].shape
        source[index] = lib.arange(1, math.prod(shape) + 1).reshape(shape)
    except (IndexError, TypeError) as error:
        raise index_error("index_put", error, index, raw.shape) from error
    values = values if hasattr(values, "dtype") else lib.asarray(values, dtype=raw.dtype)
    flat = reshape(broadcast_to(values, shape), (math.prod(shape),))
    choices = concatenate([lib.zeros(1, values.dtype), flat])  # so that there is one to take also where all stays
    return where(source == 0, x, getitem(choices, source))


def scatter(x: ArrayLike, indices: ArrayLike, values: Operand, axis: int = -1) -> "Tensor":
    """A copy of `x` with values[..., i, ...] at position indices[..., i, ...] along `axis`: take_along_axis reversed.

    `indices` are integers with as many axes as `x`; `values` broadcast to their shape. Repeated positions, errors and
    derivatives as in `index_put`.
    """
    axis, raw = checked_axis(axis, x.ndim), _raw(indices)
    lib = xp(_raw(x))
    raw = raw if is_array(raw) else lib.asarray(raw)
    if raw.dtype.kind not in "iu":
        raise TypeError(f"scatter: indices must be integers, not {raw.dtype}")
    lengths = zip(raw.shape, x.shape, strict=False)
    if raw.ndim != x.ndim or builtins.any(n > m for i, (n, m) in enumerate(lengths) if i != axis):
        raise ValueError(f"scatter: indices of shape {raw.shape} do not fit x of shape {x.shape} along axis {axis}")
    others = lib.meshgrid(*[lib.arange(n) for n in raw.shape], indexing="ij", sparse=True)
    return index_put(x, tuple(raw if i == axis else other for i, other in enumerate(others)), values)


def diagonal(x: ArrayLike, offset: int = 0, axis1: int = 0, axis2: int = 1) -> "Tensor":
    """The diagonal of two axes, as the last axis of the result. `offset` above 0 is right of the main diagonal.

    IndexError for an axis that `x` does not have, ValueError for the same axis twice.
    """
    a, b = checked_axis(axis1, x.ndim), checked_axis(axis2, x.ndim)
    if a == b:
        raise ValueError(f"diagonal: axis1 and axis2 are both {a}")
    x = transpose(x, (*[i for i in range(x.ndim) if i not in (a, b)], a, b))
    rows, columns = builtins.max(-offset, 0), builtins.max(offset, 0)
    size = builtins.max(0, builtins.min(x.shape[-2] - rows, x.shape[-1] - columns))
    steps = xp(_raw(x)).arange(size)
    return getitem(x, (Ellipsis, steps + rows, steps + columns))


# ----- shapes --------------------------------------------------------------------------------------------------------


def squeeze(x: ArrayLike, axis: Axis = None) -> "Tensor":
    """`x` without its axes of length 1, or without those that `axis` names; ValueError if they have another length."""
    gone = [i for i, n in enumerate(x.shape) if n == 1] if axis is None else checked_axes(axis, x.ndim)
    if wrong := [a for a in gone if x.shape[a] != 1]:
        raise ValueError(f"squeeze: axis {wrong[0]} of shape {x.shape} has length {x.shape[wrong[0]]}, not 1")
    return reshape(x, tuple([n for i, n in enumerate(x.shape) if i not in gone]))


def stack(xs: Sequence[ArrayLike], axis: int = 0) -> "Tensor":
    """Arrays of one shape joined along a new axis: n of shape (3, 5) with axis 0 -> (n, 3, 5)."""
    xs = sequence("stack", xs)
    return concatenate([expand_dims(x, axis) for x in xs], checked_axis(axis, xs[0].ndim + 1) if xs else 0)


def split(x: ArrayLike, sections: Shape, axis: int = 0) -> list["Tensor"]:
    """Parts of `x` along `axis`, as in NumPy: `sections` equal ones, or cut before each of the positions `sections`.

    ValueError where `x` cannot be cut into that many equal parts.
    """
    axis = checked_axis(axis, x.ndim)
    size, cuts = x.shape[axis], sections
    if isinstance(cuts, int):
        if cuts < 1 or size % cuts:
            raise ValueError(f"split: axis {axis} of length {size} cannot be cut into {cuts} equal parts")
        cuts = range(size // cuts, size, size // cuts) if size else [0] * (cuts - 1)
    starts, before = [0, *cuts], (slice(None),) * axis
    return [x[(*before, slice(a, b))] for a, b in zip(starts, [*cuts, size], strict=True)]


def repeat(x: ArrayLike, repeats: int, axis: int | None = None) -> "Tensor":
    """Each element `repeats` times in a row along `axis` (None: of the flattened array): [1, 2] -> [1, 1, 2, 2]."""
    repeats = _count_of("repeat: repeats", repeats)
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    axis = checked_axis(axis, x.ndim)
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    copies = broadcast_to(expand_dims(x, axis + 1), (*before, size, repeats, *after))
    return reshape(copies, (*before, size * repeats, *after))  # (..., size, repeats, ...) -> (..., size * repeats, ...)


def tile(x: ArrayLike, reps: Shape) -> "Tensor":
    """The whole of `x` repeated `reps` times (an int, or a tuple of one per axis, aligned on the right).

    [1, 2] with 2 -> [1, 2, 1, 2]; with (2, 1) -> [[1, 2], [1, 2]].
    """
    reps = tuple([_count_of("tile: reps", r) for r in (reps if isinstance(reps, (tuple, list)) else (reps,))])
    shape = (1,) * (len(reps) - x.ndim) + tuple(x.shape)
    reps = (1,) * (len(shape) - len(reps)) + reps
    apart = tuple([n for size in shape for n in (1, size)])
    copies = broadcast_to(reshape(x, apart), tuple([n for pair in zip(reps, shape, strict=True) for n in pair]))
    return reshape(copies, tuple([r * n for r, n in zip(reps, shape, strict=True)]))  # (r, n, ...) -> (r * n, ...)


def roll(x: ArrayLike, shift: Shape, axis: Axis = None) -> "Tensor":
    """Elements shifted cyclically by `shift` places along `axis` (None: in the flattened array).

    Both may be tuples, of one length or one of them a single number, as in NumPy.
    """
    shifts = shift if isinstance(shift, (tuple, list)) else (shift,)
    if axis is None:
        return reshape(_rolled(reshape(x, (x.size,)), builtins.sum(shifts), 0), x.shape)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    if 1 not in (len(shifts), len(axes)) and len(shifts) != len(axes):
        raise ValueError(f"roll: shift {shift} and axis {axis} must have the same length")
    size = builtins.max(len(shifts), len(axes)) if shifts and axes else 0
    for k in range(size):
        x = _rolled(x, shifts[k % len(shifts)], checked_axis(axes[k % len(axes)], x.ndim))
    return x


def _rolled(x: Any, shift: int, axis: int) -> Any:
    if not hasattr(shift, "__index__"):
        raise TypeError(f"roll: shift must be an integer or a tuple of integers, not {shift!r}")
    before, size = (slice(None),) * axis, x.shape[axis]
    cut = size - shift % size if size else 0
    return concatenate([x[(*before, slice(cut, None))], x[(*before, slice(cut))]], axis)


def pad(x: ArrayLike, widths: Any, value: float = 0.0) -> "Tensor":
    """`x` with borders of a constant `value`. `widths`: an int, a pair (before, after), or one pair per axis.

    ValueError for widths of another form and for negative ones.
    """
    pairs = widths if isinstance(widths, (tuple, list)) else (widths, widths)
    single = len(pairs) == 2 and not builtins.any(isinstance(pair, (tuple, list)) for pair in pairs)
    pairs = [tuple(pair) if isinstance(pair, (tuple, list)) else pair for pair in ([pairs] if single else pairs)]
    fit = single or len(pairs) == x.ndim
    if not fit or builtins.any(not isinstance(pair, tuple) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"pad: widths must be an int, a pair, or {x.ndim} pairs of non-negative ints, not {widths}")
    widths = tuple([tuple([_count_of("pad: a width", width) for width in pair]) for pair in pairs])
    widths = widths * x.ndim if single else widths
    return _pad(x, widths=widths, value=value) if widths else x  # 0-d: no borders


def _count_of(what: str, value: Any) -> int:
    """A non-negative integer."""
    if not hasattr(value, "__index__") or value < 0:
        raise ValueError(f"{what} must be a non-negative integer, not {value!r}")
    return int(value)


# ----- products ------------------------------------------------------------------------------------------------------


def outer(x: ArrayLike, y: ArrayLike) -> "Tensor":
    """x_i y_j: vectors (M,) and (N,) -> (M, N). ValueError for other shapes."""
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(f"outer: give two vectors, not shapes {x.shape} and {y.shape}")
    return expand_dims(x, 1) * expand_dims(y, 0)


def einsum(equation: str, *xs: ArrayLike) -> "Tensor":
    """Einstein's summation, as in NumPy: einsum("bij,bjk->bik", x, y) is x @ y. One term, a letter per axis, for each
    argument; letters that are not in the output are summed over. A letter twice in a term takes the diagonal; "..."
    and axes of length 1 broadcast. ValueError for an equation that does not fit the shapes.

    The equation is brought to a form in which each label of a term stands in another term or in the output, so that
    the gradient of one argument is again an einsum: of the incoming gradient with the other arguments.
    """
    return _einsum_of(*xs, equation=equation)


@promote_narrow
def _einsum_of(*xs: Any, equation: str) -> Any:
    terms, out, sizes = _parse_einsum(equation, xs)
    args = list(xs)
    for i, term in enumerate(terms):
        while repeated := [c for c in dict.fromkeys(term) if term.count(c) > 1]:
            a, b = [k for k, c in enumerate(term) if c == repeated[0]][:2]
            args[i] = diagonal(args[i], 0, a, b)
            term = "".join(c for k, c in enumerate(term) if k not in (a, b)) + repeated[0]
        # an axis of length 1 that broadcasts is dropped: its label occurs in another term
        args[i], terms[i] = _sum_labels(
            args[i], term, {c for c, n in zip(term, args[i].shape, strict=True) if n != sizes[c]}
        )
    for i, term in enumerate(terms):
        elsewhere = out + "".join(t for j, t in enumerate(terms) if j != i)
        args[i], terms[i] = _sum_labels(args[i], term, set(term) - set(elsewhere))
    return _einsum(*args, terms=tuple(terms), into=out)


def _sum_labels(x: Any, term: str, labels: set[str]) -> tuple[Any, str]:
    """`x` summed over the axes of `labels`, and its term without these labels."""
    axes = tuple([k for k, c in enumerate(term) if c in labels])
    return (astype(sum(x, axis=axes), x.dtype), "".join(c for c in term if c not in labels)) if axes else (x, term)


def _parse_einsum(equation: str, xs: Sequence[Any]) -> tuple[list[str], str, dict[str, int]]:
    """The terms and output with "..." replaced by unused capitals, and the length of each label."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(xs):
        raise ValueError(f"einsum: {equation!r:.80} has {len(terms)} terms for {len(xs)} arguments")
    free = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in equation]
    hidden = [x.ndim - len(t.replace("...", "")) if "..." in t else 0 for t, x in zip(terms, xs, strict=True)]
    widest = "".join(free[: builtins.max(hidden, default=0)])
    terms = [t.replace("...", widest[len(widest) - n :]) for t, n in zip(terms, hidden, strict=True)]
    if not arrow:
        labels = "".join(terms)
        out = ("..." if widest else "") + "".join(
            sorted(c for c in set(labels) if labels.count(c) == 1 and c not in widest)
        )
    out = out.replace("...", widest)
    sizes: dict[str, int] = {}
    for term, x in zip(terms, xs, strict=True):
        if len(term) != x.ndim or (not term.isalpha() and term):
            raise ValueError(
                f"einsum: term {term!r:.80} of {equation!r:.80} does not fit an argument of shape {x.shape}"
            )
        own = dict(zip(term, x.shape, strict=True))
        for label, size in zip(term, x.shape, strict=True):
            known = sizes.setdefault(label, size)
            if size != own[label] or (size != known and 1 not in (size, known)):  # 1 broadcasts, but not within a term
                other = known if size == own[label] else own[label]
                raise ValueError(f"einsum: label {label!r} of {equation!r:.80} is both {other} and {size} long")
            sizes[label] = size if known == 1 else known
    if set(out) - set(sizes) or len(set(out)) < len(out):
        raise ValueError(f"einsum: output {out!r:.80} of {equation!r:.80} must name labels of the terms, each once")
    return terms, out, sizes
