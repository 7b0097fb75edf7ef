"""Hypothesis strategies for tests of ops: shapes with their edge cases, two kinds of values, memory layouts.

*Smooth* values are all different and keep away from kinks: for finite differences. *Kinky* values are multiples of 1/16
with ties and zeros in most draws: sums of them are exact, and conventions (at ties, at 0) show in the results.
"""

import functools
import math
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..backend import float32
from ..creation import tensor
from ..tensor import Tensor

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "the strategies of tensorlite.testing need Hypothesis: pip install 'tensorlite[testing]'"
    ) from error

Shape = tuple[int, ...]
LONG = (65, 130)
always_long = ContextVar("always_long", default=False)  # not only one shape in 20
MANY = 64  # elements: so many are drawn one by one, more of them by a seed
SEEDS = st.integers(0, 2**32 - 1)
GAP = 0.06  # from a kink


def uniform(draw: st.DrawFn) -> float:
    """A number in [0, 1), uniform over the draws, as Hypothesis' own numbers are not: it prefers some."""
    return np.random.default_rng(draw(SEEDS)).random()


# ----- shapes -----------------------------------------------------------------------------------------------------


@st.composite
def shapes(
    draw: st.DrawFn, min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int | None = None
) -> Shape:
    """A shape: 0-d and sides of length 1 are common, and where `min_side` is 0 one in six has a side of length 0.

    Sides have lengths to `max_side`. Where that is None they have lengths to 3, and one shape in 20 has a side of a
    length from 65 to 130, past the blocks in which sums and kernels work.
    """
    ndim = draw(st.integers(min_dims, max_dims))
    shape = [draw(st.integers(max(1, min_side), max_side or 3)) for _ in range(ndim)]
    long, chance = always_long.get() and max_side is None, uniform(draw)
    if ndim and min_side == 0 and not long and chance < 1 / 6:
        shape[draw(st.integers(0, ndim - 1))] = 0
    elif ndim and max_side is None and (long or chance > 19 / 20):
        shape = [min(side, 2) for side in shape]
        shape[draw(st.integers(0, ndim - 1))] = draw(st.integers(*LONG))
    return tuple(shape)


@st.composite
def broadcastable(
    draw: st.DrawFn, n: int = 2, max_dims: int = 3, min_side: int = 0, max_side: int | None = None
) -> tuple[Shape, ...]:
    """`n` shapes that broadcast against each other: each lacks some leading axes and has 1 for some others."""
    full = draw(shapes(0, max_dims, min_side, max_side))
    result = []
    for _ in range(n):
        kept = full[draw(st.integers(0, len(full))) :] if draw(st.booleans()) else full
        result.append(tuple([1 if draw(st.integers(0, 3)) == 3 else side for side in kept]))
    return tuple(result)


@st.composite
def matmul_shapes(draw: st.DrawFn, max_side: int | None = None) -> tuple[Shape, Shape]:
    """Two shapes whose product `@` exists: vectors, matrices, and stacks of matrices that broadcast."""
    rows, inner, columns = draw(shapes(3, 3, 0, max_side))
    x_stack, y_stack = draw(broadcastable(2, 2, 1, max_side or 3)) if draw(st.booleans()) else ((), ())
    x = (inner,) if draw(st.integers(0, 3)) == 3 else (*x_stack, rows, inner)
    y = (inner,) if draw(st.integers(0, 3)) == 3 else (*y_stack, inner, columns)
    return x, y


# ----- values -----------------------------------------------------------------------------------------------------


@st.composite
def smooth(
    draw: st.DrawFn,
    *array_shapes: Shape,
    low: float | None = None,
    high: float | None = None,
    avoid: Sequence[float] = (0.0,),
    gap: float = GAP,
) -> tuple[np.ndarray, ...]:
    """A float64 array for each shape: in [low, high], no two elements of all of them alike, none nearer than `gap` to a
    kink in `avoid`: what differences of values need.

    The limits are -3 and 3 where they are not given, and in one draw of ten -12 and 12. Elements are at least 1/80
    apart where there are at most 100 of them, and nearer where there are more or the limits are nearer than 1.
    """
    reach = 12.0 if always_long.get() or uniform(draw) < 1 / 10 else 3.0
    low, high = -reach if low is None else low, reach if high is None else high
    if not low < high:
        raise ValueError(f"smooth: low must be below high, got {low} and {high}")
    sizes = [math.prod(shape) for shape in array_shapes]
    total, step = sum(sizes), 0.0131 * min(1.0, high - low)
    grid = _grid(low, high, step, avoid, gap)
    while len(grid) < 1.5 * total:
        step /= 2
        grid = _grid(low, high, step, avoid, gap)
    if total > MANY:
        places = np.random.default_rng(draw(SEEDS)).permutation(len(grid))[:total]
    else:
        places = np.array(draw(_different(len(grid), total)), int)
    return _cut(grid[places], array_shapes, sizes)


def _grid(low: float, high: float, step: float, avoid: Sequence[float], gap: float) -> np.ndarray:
    grid = np.arange(low + 0.0071 * min(1.0, high - low), high, step)
    grid = grid[np.all([abs(grid - kink) >= gap for kink in avoid], axis=0)] if avoid else grid
    if not len(grid):
        raise ValueError(f"smooth: no number between {low} and {high} is {gap} away from {list(avoid)}")
    return grid


@st.composite
def kinky(
    draw: st.DrawFn,
    *array_shapes: Shape,
    bound: int = 48,
    low: float | None = None,
    high: float | None = None,
    avoid: Sequence[float] = (),
    gap: float = 0.0,
) -> tuple[np.ndarray, ...]:
    """A float64 array for each shape, of integers / 16 up to `bound` / 16 with many ties and zeros: for `check_kinks`,
    and for conventions that are written down as formulas.

    With `low` or `high` these limits replace those of `bound`; no element is nearer than `gap` to a number in `avoid`.
    ValueError if there is no such number.
    """
    allowed = _sixteenths(-bound / 16 if low is None else low, bound / 16 if high is None else high, tuple(avoid), gap)
    often = [k for k in OFTEN if k in allowed] or list(allowed[:: len(allowed) // 4 + 1])
    sizes = [math.prod(shape) for shape in array_shapes]
    total = sum(sizes)
    if total <= MANY and draw(st.booleans()):  # of few numbers, so that the largest and the smallest are tied too
        often, allowed = often[:3], tuple(often[:3])
    if total > MANY:
        random = np.random.default_rng(draw(SEEDS))
        values = np.where(random.random(total) < 0.5, random.choice(often, total), random.choice(allowed, total))
    else:
        values = np.array(draw(_with_ties(tuple(often), allowed, total)))
    return _cut(values.astype(np.float64) / 16, array_shapes, sizes)


OFTEN = [0, 0, 16, -16, 32, 8, -48]


@functools.cache
def _sixteenths(low: float, high: float, avoid: tuple[float, ...], gap: float) -> tuple[int, ...]:
    """All k with k / 16 in [low, high] and not nearer than `gap` to a number in `avoid`."""
    every = range(math.ceil(low * 16), math.floor(high * 16) + 1)
    found = tuple([k for k in every if all(abs(k / 16 - kink) >= gap for kink in avoid)])
    if not found:
        raise ValueError(f"kinky: no multiple of 1/16 between {low} and {high} is {gap} away from {list(avoid)}")
    return found


@functools.cache  # a strategy is made ready when it is first drawn from, which takes longer than a draw
def _with_ties(often: tuple[int, ...], allowed: tuple[int, ...], size: int) -> st.SearchStrategy[list[int]]:
    each = st.one_of(st.sampled_from(often), st.sampled_from(allowed))
    return st.lists(each, min_size=size, max_size=size)


@functools.cache
def _different(below: int, size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, below - 1), min_size=size, max_size=size, unique=True)


def _cut(values: np.ndarray, array_shapes: Sequence[Shape], sizes: list[int]) -> tuple[np.ndarray, ...]:
    pieces = np.split(values, np.cumsum(sizes)[:-1])
    return tuple([piece.reshape(shape) for piece, shape in zip(pieces, array_shapes, strict=True)])


# ----- memory -----------------------------------------------------------------------------------------------------


@st.composite
def layouts(
    draw: st.DrawFn, arrays: st.SearchStrategy[tuple[np.ndarray, ...]], broadcast: bool = False
) -> tuple[np.ndarray, ...]:
    """The arrays that `arrays` draws, most of them in other memory layouts: Fortran order, negative strides, every
    second element of a larger buffer, read-only. With `broadcast` also stride 0, which repeats values along an axis.
    """
    kind = _KINDS[broadcast]
    return tuple([_laid_out(x, draw(kind)) for x in draw(arrays)])


_KINDS = [st.sampled_from(["C", "F", "negative", "strided", "read-only", *more]) for more in ([], ["broadcast"])]


def _laid_out(x: np.ndarray, kind: str) -> np.ndarray:
    if kind == "read-only" or (kind != "C" and not x.ndim):  # of a 0-d array, NumPy would make a scalar or an axis
        x = x.copy()
        x.flags.writeable = False
        return x
    if kind == "F" and x.squeeze().ndim > 1:
        return np.asfortranarray(x)
    if kind in ("negative", "F"):
        back = (slice(None, None, -1),) * x.ndim
        return x[back].copy()[back]
    if kind == "strided":
        buffer = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
        buffer[..., ::2] = x
        return buffer[..., ::2]
    if kind == "broadcast" and x.size:
        return np.broadcast_to(x[:1], x.shape)
    return x.copy()


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
