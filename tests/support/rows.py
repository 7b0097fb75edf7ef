"""What the rows of the table are made of: THE TABLE of the tests has for every op its value and its gradient by hand.

A row is independent of the library: `value` is NumPy's own function or the definition, `gradient` the formula written
out (often the slow, obvious way: the product of the others for `prod`, an index followed for whatever moves elements).
Where a derivative does not exist the formula follows the documented convention (the docstring of ops.py).
test_ops.py runs every row through its properties, peers/ against torch.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from tensorlite import testing
from tensorlite.testing import arrays, booleans, broadcastable, integers, reductions, shapes  # noqa: F401

Row = functools.partial(testing.Row, device=True, narrow=0.5)

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


def move(name: str, op: Callable, value: Callable, inputs: st.SearchStrategy, **options) -> testing.Row:
    return Row(name, op, value, moves(value), inputs, exact=True, step=1.0, **options)


def expand(g, x, axis, keepdims):
    """`g`, the gradient of a reduction's result, repeated over what was reduced."""
    if axis is not None and not keepdims:
        g = np.expand_dims(g, axis)
    return np.broadcast_to(g, x.shape)


def some_axis(draw, ndim: int) -> int:
    return draw(st.integers(-ndim, ndim - 1))


def count(x, axis) -> int:
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return math.prod(x.shape[a] for a in axes)
