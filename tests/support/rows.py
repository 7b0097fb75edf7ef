"""THE TABLE of the tests: for every op its value and its gradient by hand, in NumPy, and what to draw for it.

A row is independent of the library: `value` is NumPy's own function or the definition, `gradient` the formula written
out (often the slow, obvious way: the product of the others for `prod`, an index followed for whatever moves elements).
Where a derivative does not exist the formula follows the documented convention (the docstring of ops.py).
test_ops.py runs every row through its properties, test_strict_device.py on a strict device, peers/ against torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tensorlite.testing import broadcastable, shapes

CLOSE = 3e-5  # a step for what bends within the distance between elements: smooth draws may all lie 0.013 apart


@dataclass(frozen=True)
class Row:
    name: str  # the public name, then a comma and the variant
    op: Callable  # on Tensors or arrays; metadata by keyword
    value: Callable  # the same on arrays, without the library
    gradient: Callable | None  # (g, *arrays, **metadata) -> the gradient by each array; None: nothing to differentiate
    inputs: st.SearchStrategy  # draws (shapes of the arrays, metadata)
    domain: dict[str, Any] = field(default_factory=dict)  # of smooth draws: low, high, avoid
    exact: bool = False  # on multiples of 1/16 every bit is as in the formula
    differences: bool = True  # compare with finite differences too
    step: float = 1e-3  # of these; 1.0 where the op is a polynomial of degree 4 at most in each element: then exact
    covers: tuple[str, ...] | None = None  # the primitives that it proves, where that is not the one of its own name
    dtype: Any = None  # of the output for float64 inputs, where it is not float64
    narrow: float = (
        0.5  # in float16 and bfloat16 the result is so many epsilons from the exact one: 0.5 is one rounding
    )

    @property
    def function(self) -> str:
        return self.name.partition(",")[0]

    @property
    def proves(self) -> tuple[str, ...]:
        return (self.function,) if self.covers is None else self.covers

    def __repr__(self) -> str:
        return self.name


# ----- how formulas are written down ------------------------------------------------------------------------------


def fit(g, shape):
    """Sum `g` over what broadcasting added to an argument of `shape`."""
    while g.ndim > len(shape):
        g = g.sum(axis=0)
    for axis, n in enumerate(shape):
        if n == 1:
            g = g.sum(axis=axis, keepdims=True)
    return g


def local(*slopes: Callable) -> Callable:
    """The gradient of an elementwise op from its partial derivatives."""

    def gradient(g, *xs, **meta):
        return tuple([fit(g * slope(*xs, **meta), x.shape) for slope, x in zip(slopes, xs, strict=True)])

    return gradient


def moves(value: Callable) -> Callable:
    """The gradient of an op that only moves elements: number them, see where each went, and add up `g` from there."""

    def gradient(g, *xs, **meta):
        cuts = np.cumsum([0, *[x.size for x in xs]])
        numbers = [
            np.arange(a, b).reshape(x.shape) + 1 for a, b, x in zip(cuts[:-1], cuts[1:], xs, strict=True)
        ]  # 0: from nowhere
        went = value(*numbers, **{name: 0 if name == "value" else v for name, v in meta.items()})
        total = np.bincount(np.ravel(went), np.ravel(g), cuts[-1] + 1)[1:]
        return tuple([total[a:b].reshape(x.shape) for a, b, x in zip(cuts[:-1], cuts[1:], xs, strict=True)])

    return gradient


def move(name: str, op: Callable, value: Callable, inputs: st.SearchStrategy, **options) -> Row:
    return Row(name, op, value, moves(value), inputs, exact=True, step=1.0, **options)


def expand(g, x, axis, keepdims):
    """`g`, the gradient of a reduction's result, repeated over what was reduced."""
    if axis is not None and not keepdims:
        g = np.expand_dims(g, axis)
    return np.broadcast_to(g, x.shape)


# ----- what is drawn ----------------------------------------------------------------------------------------------


def arrays(n: int, /, **meta: st.SearchStrategy) -> st.SearchStrategy:
    """`n` arrays whose shapes broadcast, with metadata of the given strategies."""
    return st.tuples(broadcastable(n) if n > 1 else st.tuples(shapes()), st.fixed_dictionaries(meta))


def booleans(shape) -> st.SearchStrategy:
    size = math.prod(shape)
    return st.lists(st.booleans(), min_size=size, max_size=size).map(lambda v: np.array(v, bool).reshape(shape))


def integers(shape, low: int, high: int) -> st.SearchStrategy:
    """int64 arrays of `shape` in low .. high - 1."""
    size = math.prod(shape)
    values = st.lists(st.integers(low, high - 1), min_size=size, max_size=size)
    return values.map(lambda v: np.array(v, np.int64).reshape(shape))


def some_axis(draw, ndim: int) -> int:
    return draw(st.integers(-ndim, ndim - 1))


@st.composite
def reductions(draw, empty=True, tuples=True, keepdims=True, none=True, min_dims=0, **meta):
    """An array and the axes to reduce: None, one, or several. `empty`: the reduced axes may have length 0."""
    shape = list(draw(shapes(min_dims, min_side=0 if empty else 1)))
    kind = draw(st.sampled_from(["none"] * none + ["one"] + ["several"] * tuples)) if shape else "none"
    axis = None if kind == "none" else some_axis(draw, len(shape))
    if kind == "several":
        chosen = draw(st.lists(st.integers(0, len(shape) - 1), unique=True))
        axis = tuple([a - len(shape) * draw(st.booleans()) for a in chosen])
    if not empty and isinstance(axis, int) and len(shape) > 1 and draw(st.integers(0, 9)) == 9:
        shape[(axis + 1) % len(shape)] = 0  # the batch is empty, not the reduction
    found = {name: draw(strategy) for name, strategy in meta.items()}
    return (tuple(shape),), {"axis": axis} | ({"keepdims": draw(st.booleans())} if keepdims else {}) | found


def count(x, axis) -> int:
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return math.prod(x.shape[a] for a in axes)
