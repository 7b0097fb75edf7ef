"""Hypothesis strategies for tests of ops: shapes with their edge cases, two kinds of values, memory layouts.

*Smooth* values are all different and keep away from kinks: for finite differences. *Kinky* values are multiples of 1/16
with ties and zeros in most draws: sums of them are exact, and conventions (at ties, at 0) show in the results.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import float32
from ..creation import tensor
from ..tensor import Tensor

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError("the strategies of tensorlite.testing need Hypothesis: pip install hypothesis") from error

Shape = tuple[int, ...]

# ----- shapes -----------------------------------------------------------------------------------------------------


@st.composite
def shapes(draw: st.DrawFn, min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int = 3) -> Shape:
    """A shape: 0-d and sides of length 1 are common, and where `min_side` is 0 one in six has a side of length 0."""
    ndim = draw(st.integers(min_dims, max_dims))
    shape = [draw(st.integers(max(1, min_side), max_side)) for _ in range(ndim)]
    if ndim and min_side == 0 and draw(st.integers(0, 5)) == 5:
        shape[draw(st.integers(0, ndim - 1))] = 0
    return tuple(shape)


@st.composite
def broadcastable(
    draw: st.DrawFn, n: int = 2, max_dims: int = 3, min_side: int = 0, max_side: int = 3
) -> tuple[Shape, ...]:
    """`n` shapes that broadcast against each other: each lacks some leading axes and has 1 for some others."""
    full = draw(shapes(0, max_dims, min_side, max_side))
    result = []
    for _ in range(n):
        kept = full[draw(st.integers(0, len(full))) :] if draw(st.booleans()) else full
        result.append(tuple([1 if draw(st.integers(0, 3)) == 3 else side for side in kept]))
    return tuple(result)


@st.composite
def matmul_shapes(draw: st.DrawFn, max_side: int = 3) -> tuple[Shape, Shape]:
    """Two shapes whose product `@` exists: vectors, matrices, and stacks of matrices that broadcast."""
    rows, inner, columns = draw(shapes(3, 3, 0, max_side))
    x_stack, y_stack = draw(broadcastable(2, 2, 1, max_side)) if draw(st.booleans()) else ((), ())
    x = (inner,) if draw(st.integers(0, 3)) == 3 else (*x_stack, rows, inner)
    y = (inner,) if draw(st.integers(0, 3)) == 3 else (*y_stack, inner, columns)
    return x, y


# ----- values -----------------------------------------------------------------------------------------------------


@st.composite
def smooth(
    draw: st.DrawFn,
    *array_shapes: Shape,
    low: float = -3.0,
    high: float = 3.0,
    avoid: Sequence[float] = (0.0,),
    gap: float = 0.06,
) -> tuple[np.ndarray, ...]:
    """A float64 array for each shape: in [low, high], no two elements of all of them within 1/80, none nearer than
    `gap` to a kink in `avoid`: what central differences need.
    """
    grid = np.arange(low + 0.0071, high, 0.0131)
    grid = grid[np.all([abs(grid - kink) >= gap for kink in avoid], axis=0)] if avoid else grid
    sizes = [int(np.prod(shape)) for shape in array_shapes]
    places = draw(_different(len(grid), sum(sizes)))
    return _cut(grid[np.array(places, int)], array_shapes, sizes)


@st.composite
def kinky(draw: st.DrawFn, *array_shapes: Shape, bound: int = 48) -> tuple[np.ndarray, ...]:
    """A float64 array for each shape, of integers / 16 up to `bound` / 16 with many ties and zeros."""
    sizes = [int(np.prod(shape)) for shape in array_shapes]
    values = draw(_sixteenths(bound, sum(sizes)))
    return _cut(np.array(values, np.float64) / 16, array_shapes, sizes)


@functools.cache  # a strategy is made ready when it is first drawn from, which takes longer than a draw
def _sixteenths(bound: int, size: int) -> st.SearchStrategy[list[int]]:
    often = st.sampled_from([0, 0, 16, -16, 32, 8, -48])
    return st.lists(st.one_of(often, st.integers(-bound, bound)), min_size=size, max_size=size)


@functools.cache
def _different(below: int, size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, below - 1), min_size=size, max_size=size, unique=True)


def _cut(values: np.ndarray, array_shapes: Sequence[Shape], sizes: list[int]) -> tuple[np.ndarray, ...]:
    pieces = np.split(values, np.cumsum(sizes)[:-1])
    return tuple([piece.reshape(shape) for piece, shape in zip(pieces, array_shapes, strict=True)])


@st.composite
def layouts(
    draw: st.DrawFn, arrays: st.SearchStrategy[tuple[np.ndarray, ...]], broadcast: bool = False
) -> tuple[np.ndarray, ...]:
    """The arrays that `arrays` draws, in other memory layouts: Fortran order, negative strides, every second element of
    a larger buffer, read-only. With `broadcast` also stride 0, which repeats values along an axis.
    """
    kind = _KINDS[broadcast]
    return tuple([_laid_out(x, draw(kind)) for x in draw(arrays)])


_KINDS = [st.sampled_from(["C", "C", "F", "negative", "strided", "read-only", *more]) for more in ([], ["broadcast"])]


def _laid_out(x: np.ndarray, kind: str) -> np.ndarray:
    if not x.ndim:  # NumPy would make a scalar, or an axis
        return x.copy()
    back = (slice(None, None, -1),) * x.ndim
    if kind == "F":
        return np.asfortranarray(x)
    if kind == "negative":
        return x[back].copy()[back]
    if kind == "strided":
        buffer = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
        buffer[..., ::2] = x
        return buffer[..., ::2]
    if kind == "broadcast" and x.size:
        return np.broadcast_to(x[:1], x.shape)
    x = x.copy()
    x.flags.writeable = kind != "read-only"
    return x


@st.composite
def tensors(
    draw: st.DrawFn,
    shape: Shape | st.SearchStrategy[Shape] | None = None,
    dtype: Any = float32,
    requires_grad: bool = True,
    values: Any = smooth,
) -> Tensor:
    """A Tensor with values drawn by `values` (`smooth` or `kinky`), of the shape given or drawn (`shapes()`)."""
    if not isinstance(shape, tuple):
        shape = draw(shapes() if shape is None else shape)
    (array,) = draw(values(shape))
    return tensor(array, dtype=dtype, requires_grad=requires_grad)
