"""What an op is, for its property tests: `Row`, and strategies for its arguments."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..primitive import Primitive
from .strategies import MANY, SEEDS, broadcastable, shapes

DOMAIN = ("low", "high", "avoid", "gap")


@dataclass(frozen=True, repr=False)
class Row:
    """An op and what is known of it. Only `name` and `op` are required.

    `op` takes Tensors or arrays by position and metadata by keyword. `value` is the same function of arrays without
    the library, `gradient(g, *arrays, **metadata)` a tuple of the gradients by each array, written by hand. Where they
    are given, results are compared with them; derivatives are compared with differences of values in any case.
    """

    name: str  # what reports and `--op` call it; a variant of an op follows after a comma
    op: Callable[..., Any]
    value: Callable[..., Any] | None = None
    gradient: Callable[..., Any] | str | None = "differences"  # no formula; None: there is nothing to differentiate
    inputs: Any = None  # draws (shapes of the arrays, metadata); a number n: n arrays that broadcast; None: the op's n
    domain: dict[str, Any] = field(default_factory=dict)  # of `smooth` draws: low, high, avoid, gap
    exact: bool = False  # on multiples of 1/16 every bit is as in the formulas
    differences: bool = True  # False: derivatives are not those of values, by convention
    kinks: bool = True  # False: at ties and zeros the gradient is not between the slopes to both sides
    order: int = 2  # the highest order of derivatives to check
    step: float = 1e-3  # the largest step of differences; 1.0 for a polynomial of degree 4 at most: then exact
    rtol: float = 1e-6  # of differences: see check_gradients
    atol: float = 1e-7
    covers: tuple[str, ...] | None = None  # the primitives that it proves, where that is not the one of its own name
    dtype: Any = None  # of the output for float64 inputs, where it is not float64
    narrow: float | None = None  # epsilons of error in float16 and bfloat16, 0.5 for one rounding; None: not checked
    device: bool = False  # True: it also runs on another device than the CPU, and never waits for values there

    def __post_init__(self) -> None:
        known = ", ".join(DOMAIN)
        wrong = {
            "name must be a string": not isinstance(self.name, str),
            "op must be callable": not callable(self.op),
            "value must be a function of arrays": not (self.value is None or callable(self.value)),
            "gradient must be a function (g, *arrays), or None": not (
                self.gradient in (None, "differences") or callable(self.gradient)
            ),
            f"domain may have {known}": not self.domain.keys() <= set(DOMAIN),
        }
        for sentence in [sentence for sentence, applies in wrong.items() if applies]:
            raise TypeError(f"Row {self.name!r:.80}: {sentence}")

    @property
    def function(self) -> str:
        """The name of the op: `name` up to its comma."""
        return self.name.partition(",")[0]

    @property
    def proves(self) -> tuple[str, ...]:
        """The names of the primitives that this row proves."""
        return (self.function,) if self.covers is None else self.covers

    def __repr__(self) -> str:
        return self.name


def arrays(n: int, /, **meta: Any) -> Any:
    """`n` arrays whose shapes broadcast. `meta` has a strategy for each keyword argument of the op."""
    return st.tuples(broadcastable(n) if n > 1 else st.tuples(shapes()), st.fixed_dictionaries(meta))


def booleans(shape: Any) -> Any:
    """Boolean arrays of `shape`."""
    return integers(shape, 0, 2).map(lambda x: x.astype(bool))


def integers(shape: Any, low: int, high: int) -> Any:
    """int64 arrays of `shape` in low .. high - 1."""
    size = math.prod(shape)
    if size > MANY:
        return SEEDS.map(lambda seed: np.random.default_rng(seed).integers(low, high, shape))
    values = st.lists(st.integers(low, high - 1), min_size=size, max_size=size)
    return values.map(lambda v: np.array(v, np.int64).reshape(shape))


@st.composite
def reductions(
    draw: st.DrawFn, /, empty: bool = True, tuples: bool = True, keepdims: bool = True, none: bool = True,
    min_dims: int = 0, **meta: Any,
) -> Any:  # fmt: skip
    """An array and the axes to reduce: None, one, or several. `empty`: the reduced axes may have length 0.

    `meta` has a strategy for each further keyword argument of the op.
    """
    axes = st.sampled_from([min_dims, *[max(n, min_dims) for n in (2, 2, 3, 3, 1)]])  # most of them several
    shape = list(draw(axes.flatmap(lambda n: shapes(n, n, min_side=0 if empty else 1))))
    kind = draw(st.sampled_from(["none"] * none + ["one"] * 3 + ["several"] * 2 * tuples)) if shape else "none"
    axis: Any = None if kind == "none" else draw(st.integers(-len(shape), len(shape) - 1))
    if kind == "several":
        chosen = draw(st.lists(st.integers(0, len(shape) - 1), unique=True))
        axis = tuple([a - len(shape) * draw(st.booleans()) for a in chosen])
    if not empty and isinstance(axis, int) and len(shape) > 1 and draw(st.integers(0, 9)) == 9:
        shape[(axis + 1) % len(shape)] = 0  # the batch is empty, not the reduction
    found = {name: draw(strategy) for name, strategy in meta.items()}
    return (tuple(shape),), {"axis": axis} | ({"keepdims": draw(st.booleans())} if keepdims else {}) | found


def arrays_of(row: Row) -> Any:
    """The strategy of a row's (shapes, metadata)."""
    if not isinstance(row.inputs, int | None):
        return row.inputs
    return arrays(_arity(row.op) if row.inputs is None else row.inputs)


def _arity(op: Any) -> int:
    """The number of arguments by position that have no default; 2 for a variadic op."""
    if isinstance(op, Primitive):
        return op.arity or 2
    parameters = [p for p in inspect.signature(op).parameters.values() if p.default is p.empty]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
