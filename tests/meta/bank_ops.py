"""The right ops of the bank: forward function, rules, and what is drawn for them. bank_libraries.py says how to read one.

They are written for the bank, in plain formulas, and are none of tensorlite's own ops. Each rule is differentiable: it
is right at order 2, and at order 3 where `order` says so. A check that fails for one of them is a false alarm.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy
from hypothesis import strategies as st

from tensorlite.testing import broadcastable, shapes

ANY: dict[str, Any] = {"avoid": ()}
POSITIVE = {"low": 0.2, "avoid": ()}
AWAY = {"gap": 0.3}  # from 0
FIRST = 0.0071  # `smooth` draws from `low` + 0.0071 on


@dataclass(frozen=True)
class Op:
    name: str
    kind: str
    forward: Callable[..., Any]  # (np, *arguments, *, keyword arguments)
    rules: tuple[Callable[..., Any] | None, ...]  # one for each argument; one in all for a variadic op
    inputs: st.SearchStrategy  # draws (shapes of the arguments, keyword arguments)
    domain: dict[str, Any] = field(default_factory=dict)  # of the values: `low`, `high`, `avoid`, `gap` of smooth
    elementwise: bool = True  # the arguments broadcast, and what the rules return is summed to their shapes
    variadic: bool = False
    order: int = 2  # to check

    def __repr__(self) -> str:
        return self.name


# ----- what is drawn ----------------------------------------------------------------------------------------------


def one(min_dims: int = 0, min_side: int = 0, **meta: st.SearchStrategy) -> st.SearchStrategy:
    """One array, and keyword arguments."""
    return st.tuples(st.tuples(shapes(min_dims, min_side=min_side)), st.fixed_dictionaries(meta))


def several(n: int, **meta: st.SearchStrategy) -> st.SearchStrategy:
    """`n` arrays whose shapes broadcast."""
    return st.tuples(broadcastable(n), st.fixed_dictionaries(meta))


def sized(*dims: str, **meta: st.SearchStrategy) -> st.SearchStrategy:
    """An array for each of `dims`, whose letters are sides of 1 to 4: sized("nk", "km") for a product of matrices."""

    def made(sides: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        known = dict(zip(letters, sides, strict=True))
        return tuple([tuple([known[letter] for letter in dim]) for dim in dims])

    letters = sorted({*"".join(dims)})
    return st.tuples(st.tuples(*[st.integers(1, 4)] * len(letters)).map(made), st.fixed_dictionaries(meta))


@st.composite
def along(draw: st.DrawFn, **meta: st.SearchStrategy) -> Any:
    """An array and one of its axes."""
    shape = draw(shapes(1, min_side=1))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return (shape,), {"axis": axis} | {name: draw(strategy) for name, strategy in meta.items()}


@st.composite
def some(draw: st.DrawFn, like: str = "same") -> Any:
    """One to four arrays of one shape (or, `like` "rows", of the same number of columns)."""
    shape = draw(shapes(2, 2, min_side=1))
    n = draw(st.integers(1, 4))
    return tuple([(draw(st.integers(1, 3)), shape[1]) if like == "rows" else shape for _ in range(n)]), {}


@st.composite
def with_rows(draw: st.DrawFn) -> Any:
    """A matrix and an array of row numbers, where rows come twice in most draws."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    index = draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=6))
    return ((rows, columns),), {"rows": numpy.array(index)}


@st.composite
def with_targets(draw: st.DrawFn) -> Any:
    """Scores (n, classes) and a class for each row."""
    n, classes = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    targets = draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n))
    return ((n, classes),), {"targets": numpy.array(targets)}


@st.composite
def masked(draw: st.DrawFn, n: int = 1, square: bool = False) -> Any:
    """`n` arrays of one shape and a boolean mask of it."""
    shape = draw(shapes(1, 2, min_side=1))
    size = math.prod(shape)
    mask = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return (shape,) * n, {"mask": numpy.array(mask).reshape(shape)}


# ----- parts of rules ---------------------------------------------------------------------------------------------


def onehot(index: Any, n: int) -> Any:
    """(len(index), n) with a 1 in the column that `index` names."""
    return (numpy.asarray(index)[:, None] == numpy.arange(n)).astype(float)


def expand(np: Any, g: Any, shape: Any, axis: int, keepdims: bool = False) -> Any:
    """`g`, the gradient of a reduction along `axis`, repeated along it."""
    full = list(shape)
    full[axis] = 1
    return np.broadcast_to(g if keepdims else np.reshape(g, tuple(full)), tuple(shape))


def turned(x: Any) -> Any:
    """A matrix, or a stack of them, transposed."""
    return x.swapaxes(-1, -2)


def share(np: Any, x: Any, best: Any) -> Any:
    """1 / number of ties where `x` is the extreme of its last axis, else 0."""
    there = step(np, np.detach(x) == np.detach(best), x)
    return there / np.sum(there, axis=-1, keepdims=True)


def softmax(np: Any, x: Any) -> Any:
    e = np.exp(x - np.detach(np.amax(x, axis=-1, keepdims=True)))
    return e / np.sum(e, axis=-1, keepdims=True)


def centered(np: Any, x: Any, eps: float = 1e-5) -> tuple[Any, Any]:
    """(x - mean) / std of the last axis, and std."""
    d = x - np.mean(x, axis=-1, keepdims=True)
    std = np.sqrt(np.mean(d * d, axis=-1, keepdims=True) + eps)
    return d / std, std


def normalized_rule(np: Any, g: Any, x: Any, eps: float = 1e-5) -> Any:
    y, std = centered(np, x, eps)
    mean = lambda a: np.mean(a, axis=-1, keepdims=True)  # noqa: E731
    return (g - mean(g) - y * mean(g * y)) / std


def beside(value: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """x**2 with a column of a constant beside it: (forward, rule)."""

    def forward(np: Any, x: Any) -> Any:
        column = np.broadcast_to(np.constant(value, x), (x.shape[0], 1))
        return np.concatenate((x * x, column), axis=1)

    return forward, lambda np, g, x: g[:, : x.shape[1]] * 2 * x


def gelu_slope(np: Any, x: Any, c: float = math.sqrt(2 / math.pi)) -> Any:
    t = np.tanh(c * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x**2)


def others(xs: Any, index: int) -> Any:
    """The product of all of `xs` but one."""
    product = xs[index] * 0.0 + 1.0
    for i, x in enumerate(xs):
        product = product * x if i != index else product
    return product


def total(xs: Any) -> Any:
    result = xs[0]
    for x in xs[1:]:
        result = result + x
    return result


def product(xs: Any) -> Any:
    return others((xs[0] * 0.0, *xs), 0)


def starts(xs: Any, index: int) -> slice:
    """The rows of argument `index` in the concatenation of `xs`."""
    begin = sum(x.shape[0] for x in xs[:index])
    return slice(begin, begin + xs[index].shape[0])


def sigmoid(np: Any, x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def sign(np: Any, x: Any) -> Any:
    return np.sign(np.detach(x))


def step(np: Any, condition: Any, like: Any) -> Any:
    """1 where `condition` is true, else 0, in the dtype of `like`."""
    return np.where(condition, np.detach(like) * 0 + 1, np.detach(like) * 0)


def pairs(a, b, c, d, e, f, h, i):
    return a * b + c * d + e * f + h * i


def smooth_step(np: Any, g: Any, x: Any) -> Any:
    return g * np.where(abs(np.detach(x)) < 1, x, sign(np, x))


def padded(np: Any, x: Any) -> Any:
    """One more column on each side."""
    column = np.broadcast_to(np.constant(0.0, x), (x.shape[0], 1))
    return np.concatenate((column, x, column), axis=1)


# ----- the ops ----------------------------------------------------------------------------------------------------

ILL, LARGE, KINK, MANY, KEYWORD = "ill-conditioned", "large or small outputs", "kinks", "many arguments", "keywords"
VARIADIC, MOVES, REDUCE, LAYER, CONSTANT = "variadic", "moved elements", "reductions", "layers", "a constant beside"
PLAIN, PRODUCT, BROADCAST, ORDER3 = "plain formulas", "products of matrices", "broadcasting", "order 3"


def whole(name, kind, forward, rules, inputs, domain=ANY, **options):
    """An op that is not elementwise: its rules return the shapes of its arguments."""
    return Op(name, kind, forward, rules, inputs, domain, elementwise=False, **options)


def variadic(name, forward, rule, inputs, **options):
    return Op(name, VARIADIC, forward, (rule,), inputs, ANY, elementwise=False, variadic=True, **options)


# fmt: off
RIGHT = [
    # plain formulas
    Op("sine", PLAIN, lambda np, x: np.sin(x), (lambda np, g, x: g * np.cos(x),), one(), ANY),
    Op("exponential", PLAIN, lambda np, x: np.exp(x), (lambda np, g, out: g * out,), one(), ANY),
    Op("tangent", PLAIN, lambda np, x: np.sin(x) / np.cos(x), (lambda np, g, out: g * (1 + out * out),), one(), {"low": -1.4, "high": 1.4, "avoid": ()}),
    Op("hyperbolic tangent", PLAIN, lambda np, x: np.tanh(x), (lambda np, g, out: g * (1 - out * out),), one(), ANY),
    Op("logistic", PLAIN, lambda np, x: sigmoid(np, x), (lambda np, g, out: g * out * (1 - out),), one(), ANY),
    Op("logarithm", PLAIN, lambda np, x: np.log(x), (lambda np, g, x: g / x,), one(), POSITIVE),
    Op("logarithm to base 2", PLAIN, lambda np, x: np.log(x) / math.log(2), (lambda np, g, x: g / (x * math.log(2)),), one(), POSITIVE),
    Op("square", PLAIN, lambda np, x: x * x, (lambda np, g, x: g * 2 * x,), one(), ANY),
    Op("cube", PLAIN, lambda np, x: x**3, (lambda np, g, x: g * 3 * x**2,), one(), ANY),
    Op("reciprocal", PLAIN, lambda np, x: 1 / x, (lambda np, g, out: -g * out * out,), one(), AWAY),
    Op("square root", PLAIN, lambda np, x: np.sqrt(x), (lambda np, g, out: g / (2 * out),), one(), POSITIVE),
    Op("bell", PLAIN, lambda np, x: np.exp(-x * x), (lambda np, g, x, out: -2 * g * x * out,), one(), ANY),
    Op("swish", PLAIN, lambda np, x: x * sigmoid(np, x), (lambda np, g, x: g * (sigmoid(np, x) + x * sigmoid(np, x) * (1 - sigmoid(np, x))),), one(), ANY),
    Op("GELU", PLAIN, lambda np, x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), (lambda np, g, x: g * gelu_slope(np, x),), one(), ANY),
    Op("identity", PLAIN, lambda np, x: x * 1.0, (lambda np, g: g,), one(), ANY),
    # two and more arguments, which broadcast
    Op("sum of two", BROADCAST, lambda np, x, y: x + y, (lambda np, g: g, lambda np, g: g), several(2), ANY),
    Op("difference", BROADCAST, lambda np, x, y: x - y, (lambda np, g: g, lambda np, g: -g), several(2), ANY),
    Op("product of two", BROADCAST, lambda np, x, y: x * y, (lambda np, g, y: g * y, lambda np, g, x: g * x), several(2), ANY),
    Op("quotient", BROADCAST, lambda np, x, y: x / y, (lambda np, g, y: g / y, lambda np, g, x, y: -g * x / (y * y)), several(2), AWAY),
    Op("power", BROADCAST, lambda np, x, y: x**y, (lambda np, g, x, y: g * y * x ** (y - 1), lambda np, g, x, out: g * out * np.log(x)), several(2), POSITIVE),
    Op("hypotenuse", BROADCAST, lambda np, x, y: np.sqrt(x * x + y * y), (lambda np, g, x, out: g * x / out, lambda np, g, y, out: g * y / out), several(2), AWAY),
    Op("angle", BROADCAST, lambda np, y, x: np.arctan2(y, x), (lambda np, g, y, x: g * x / (x * x + y * y), lambda np, g, y, x: -g * y / (x * x + y * y)), several(2), AWAY),
    Op("log of a sum", BROADCAST, lambda np, x, y: np.log(np.exp(x) + np.exp(y)), (lambda np, g, x, out: g * np.exp(x - out), lambda np, g, y, out: g * np.exp(y - out)), several(2), ANY),
    Op("interpolation", BROADCAST, lambda np, x, y, t: x + t * (y - x), (lambda np, g, t: g * (1 - t), lambda np, g, t: g * t, lambda np, g, x, y: g * (y - x)), several(3), ANY),
    Op("chosen by a mask", BROADCAST, lambda np, x, y, *, mask: np.where(mask, x, y), (lambda np, g, mask: np.where(mask, g, g * 0.0), lambda np, g, mask: np.where(mask, g * 0.0, g)), masked(2), ANY),
    whole("broadcast to rows", BROADCAST, lambda np, x: np.broadcast_to(x, (3, *x.shape)), (lambda np, g: np.sum(g, axis=0),), one()),
    # ill-conditioned: large derivatives of higher order, or arguments that differences do not resolve
    Op("sine at 100", ILL, lambda np, x: np.sin(x), (lambda np, g, x: g * np.cos(x),), one(), {"low": 95.0, "high": 105.0, "avoid": ()}),
    Op("sine of 50 x", ILL, lambda np, x: np.sin(50 * x), (lambda np, g, x: g * 50 * np.cos(50 * x),), one(), ANY),
    Op("logarithm at 0.01", ILL, lambda np, x: np.log(x), (lambda np, g, x: g / x,), one(), {"low": 0.01 - FIRST, "high": 1.0, "avoid": ()}),
    Op("reciprocal at 0.02", ILL, lambda np, x: 1 / x, (lambda np, g, x: -g / (x * x),), one(), {"low": 0.02 - FIRST, "high": 1.0, "avoid": ()}),
    Op("square root at 0.001", ILL, lambda np, x: np.sqrt(x), (lambda np, g, out: g / (2 * out),), one(), {"low": 0.001 - FIRST, "high": 1.0, "avoid": ()}),
    Op("power 9", ILL, lambda np, x: x**9, (lambda np, g, x: 9 * g * x**8,), one(), ANY),
    Op("steep logistic", ILL, lambda np, x: sigmoid(np, 40 * x), (lambda np, g, out: 40 * g * out * (1 - out),), one(), ANY),
    # large and small outputs
    Op("exponential of 20 x", LARGE, lambda np, x: np.exp(20 * x), (lambda np, g, out: 20 * g * out,), one(), ANY),
    Op("times 1e12", LARGE, lambda np, x: x * x * 1e12, (lambda np, g, x: g * 2e12 * x,), one(), ANY),
    Op("plus a million", LARGE, lambda np, x: np.sin(x) + 1e6, (lambda np, g, x: g * np.cos(x),), one(), ANY),
    Op("times 1e-9", LARGE, lambda np, x: np.sin(x) * 1e-9, (lambda np, g, x: g * np.cos(x) * 1e-9,), one(), ANY),
    # a constant beside what moves
    *[whole(f"beside {name}", CONSTANT, forward, (rule,), sized("nk"))
      for name, (forward, rule) in {"-1e30": beside(-1e30), "1e15": beside(1e15), "finfo.min": beside(float(numpy.finfo(numpy.float32).min)), "-inf": beside(-math.inf)}.items()],
    Op("masked with -1e9", CONSTANT, lambda np, x, *, mask: np.where(mask, x * x, x * 0.0 - 1e9), (lambda np, g, x, mask: np.where(mask, g * 2 * x, g * 0.0),), masked(), ANY),
    # kinks and jumps
    Op("rectifier", KINK, lambda np, x: np.where(x > 0, x, x * 0.0), (lambda np, g, x: g * step(np, x > 0, x),), one()),
    Op("leaky rectifier", KINK, lambda np, x: np.where(x > 0, x, 0.1 * x), (lambda np, g, x: np.where(x > 0, g, 0.1 * g),), one()),
    Op("absolute value", KINK, lambda np, x: np.abs(x), (lambda np, g, x: g * sign(np, x),), one()),
    Op("clipped to 1", KINK, lambda np, x: np.where(x > 1, x * 0.0 + 1, np.where(x < -1, x * 0.0 - 1, x)), (lambda np, g, x: g * step(np, (x <= 1) & (x >= -1), x),), one(), {"avoid": (-1, 1)}),
    Op("Huber's loss", KINK, lambda np, x: np.where(np.abs(x) < 1, 0.5 * x * x, np.abs(x) - 0.5), (smooth_step,), one(), {"avoid": (-1, 1)}),
    Op("squared hinge", KINK, lambda np, x: np.where(x < 1, (1 - x) * (1 - x), x * 0.0), (lambda np, g, x: np.where(x < 1, -2 * g * (1 - x), g * 0.0),), one(), {"avoid": (1,)}),
    Op("x |x|", KINK, lambda np, x: x * np.abs(x), (lambda np, g, x: 2 * g * x * sign(np, x),), one()),
    Op("x^1.5 or 0", KINK, lambda np, x: np.where(x > 0, np.abs(x) ** 1.5, x * 0.0), (lambda np, g, x: np.where(x > 0, 1.5 * g * np.sqrt(np.abs(x)), g * 0.0),), one()),
    Op("floor", KINK, lambda np, x: np.floor(x), (lambda np, g: g * 0.0,), one(), {"avoid": (-3, -2, -1, 0, 1, 2, 3)}),
    Op("larger of two", KINK, lambda np, x, y: np.where(x > y, x, y), (lambda np, g, x, y: g * (step(np, x > y, x - y) + 0.5 * step(np, x == y, x - y)), lambda np, g, x, y: g * (step(np, y > x, x - y) + 0.5 * step(np, x == y, x - y))), several(2)),
    whole("largest", KINK, lambda np, x: np.amax(x, axis=-1), (lambda np, g, x, out: expand(np, g, x.shape, -1) * share(np, x, expand(np, out, x.shape, -1)),), one(1, 1)),
    # many arguments, keywords, variadic
    Op("four products", MANY, lambda np, a, b, c, d, e, f, h, i: pairs(a, b, c, d, e, f, h, i),
       (lambda np, g, b: g * b, lambda np, g, a: g * a, lambda np, g, d: g * d, lambda np, g, c: g * c, lambda np, g, f: g * f, lambda np, g, e: g * e, lambda np, g, i: g * i, lambda np, g, h: g * h), several(8), ANY),
    Op("weighted squares", MANY, lambda np, x, y, z, w: w * (x * x + y * y + z * z), (lambda np, g, x, w: 2 * g * w * x, lambda np, g, y, w: 2 * g * w * y, lambda np, g, z, w: 2 * g * w * z, lambda np, g, x, y, z: g * (x * x + y * y + z * z)), several(4), ANY),
    Op("scaled and moved", KEYWORD, lambda np, x, *, scale=1.0, shift=0.0: scale * x * x + shift, (lambda np, g, x, scale: 2 * g * scale * x,), one(scale=st.sampled_from([1.0, -2.0, 0.5]), shift=st.sampled_from([0.0, 3.0])), ANY),
    Op("power n", KEYWORD, lambda np, x, *, n=2: x**n, (lambda np, g, x, n: g * n * x ** (n - 1),), one(n=st.sampled_from([1, 2, 3, 4])), ANY),
    Op("one of two formulas", KEYWORD, lambda np, x, *, form="sine": np.sin(x) if form == "sine" else np.exp(x), (lambda np, g, x, form: g * (np.cos(x) if form == "sine" else np.exp(x)),), one(form=st.sampled_from(["sine", "exponential"])), ANY),
    variadic("sum of all", lambda np, *xs: total(xs), lambda np, g, index: g, some()),
    variadic("product of all", lambda np, *xs: product(xs), lambda np, g, index, xs: g * others(xs, index), some()),
    variadic("rows of all", lambda np, *xs: np.concatenate(xs, axis=0), lambda np, g, index, xs: g[starts(xs, index)], some("rows")),
    variadic("stack", lambda np, *xs: np.stack(xs, axis=0), lambda np, g, index: g[index], some()),
    # reductions
    whole("sum along", REDUCE, lambda np, x, *, axis, keepdims: np.sum(x, axis=axis, keepdims=keepdims), (lambda np, g, x, axis, keepdims: expand(np, g, x.shape, axis, keepdims) * 1.0,), along(keepdims=st.booleans())),
    whole("mean along", REDUCE, lambda np, x, *, axis, keepdims: np.mean(x, axis=axis, keepdims=keepdims), (lambda np, g, x, axis, keepdims: expand(np, g, x.shape, axis, keepdims) / x.shape[axis],), along(keepdims=st.booleans())),
    whole("sum of squares", REDUCE, lambda np, x: np.sum(x * x), (lambda np, g, x: g * 2 * x,), one()),
    whole("log of the sum along", REDUCE, lambda np, x, *, axis: np.log(np.sum(np.exp(x), axis=axis)), (lambda np, g, x, out, axis: expand(np, g, x.shape, axis) * np.exp(x - expand(np, out, x.shape, axis)),), along()),
    whole("product of three columns", REDUCE, lambda np, x: x[:, 0] * x[:, 1] * x[:, 2],
          (lambda np, g, x: np.stack((g * x[:, 1] * x[:, 2], g * x[:, 0] * x[:, 2], g * x[:, 0] * x[:, 1]), axis=1),), st.tuples(st.integers(1, 4).map(lambda n: ((n, 3),)), st.just({}))),
    whole("length", REDUCE, lambda np, x: np.sqrt(np.sum(x * x)), (lambda np, g, x, out: g * x / out,), one(min_side=1), AWAY),
    whole("length, with 0 at 0", REDUCE, lambda np, x: np.sqrt(np.sum(x * x)), (lambda np, g, x, out: g * x / (out + step(np, out == 0, out)),), one(min_side=1), {}),
    whole("variance", REDUCE, lambda np, x: np.mean((x - np.mean(x)) ** 2), (lambda np, g, x: g * 2 * (x - np.mean(x)) / math.prod(x.shape),), one(min_side=1)),
    whole("running sum", REDUCE, lambda np, x, *, axis: np.cumsum(x, axis=axis), (lambda np, g, axis: np.sum(g, axis=axis, keepdims=True) - np.cumsum(g, axis=axis) + g,), along()),
    # moved elements
    whole("transposed", MOVES, lambda np, x: turned(x) * 1.0, (lambda np, g: turned(g),), one(2)),
    whole("flattened", MOVES, lambda np, x: np.reshape(x, (math.prod(x.shape),)) * 1.0, (lambda np, g, x: np.reshape(g, tuple(x.shape)),), one()),
    whole("turned round", MOVES, lambda np, x: np.flip(x, 0) * 1.0, (lambda np, g: np.flip(g, 0),), one(1)),
    whole("rolled", MOVES, lambda np, x: np.roll(x, 1, 0), (lambda np, g: np.roll(g, -1, 0),), one(1, 1)),
    whole("differences", MOVES, lambda np, x: x[1:] - x[:-1], (lambda np, g: np.concatenate((-g[:1], g[:-1] - g[1:], g[-1:]), axis=0),), st.tuples(st.tuples(st.integers(2, 5)).map(lambda s: (s,)), st.just({}))),
    whole("padded", MOVES, padded, (lambda np, g: g[:, 1:-1] * 1.0,), sized("nk")),
    whole("rows by number", MOVES, lambda np, x, *, rows: x[rows], (lambda np, g, x, rows: np.constant(onehot(rows, x.shape[0]).T, g) @ g,), with_rows()),
    whole("lower triangle", MOVES, lambda np, x: np.tril(x), (lambda np, g: np.tril(g),), sized("nk")),
    # products of matrices
    whole("matrix product", PRODUCT, lambda np, x, y: x @ y, (lambda np, g, y: g @ turned(y), lambda np, g, x: turned(x) @ g), sized("nk", "km")),
    whole("products of a stack", PRODUCT, lambda np, x, y: x @ y, (lambda np, g, y: g @ turned(y), lambda np, g, x: np.sum(turned(x) @ g, axis=0)), sized("bnk", "km")),
    whole("outer product", PRODUCT, lambda np, x, y: x[:, None] * y[None, :], (lambda np, g, y: g @ y, lambda np, g, x: x @ g), sized("n", "m")),
    whole("quadratic form", PRODUCT, lambda np, x, y: x @ y @ x, (lambda np, g, x, y: g * (y @ x + x @ y), lambda np, g, x: g * x[:, None] * x[None, :]), sized("n", "nn")),
    whole("affine map", PRODUCT, lambda np, x, w, b: x @ turned(w) + b, (lambda np, g, w: g @ w, lambda np, g, x: turned(g) @ x, lambda np, g: np.sum(g, axis=0)), sized("nk", "mk", "m")),
    # layers
    whole("softmax", LAYER, softmax, (lambda np, g, out: out * (g - np.sum(g * out, axis=-1, keepdims=True)),), one(1, 1)),
    whole("log of softmax", LAYER, lambda np, x: np.log(softmax(np, x)), (lambda np, g, out: g - np.exp(out) * np.sum(g, axis=-1, keepdims=True),), one(1, 1)),
    whole("normalized rows", LAYER, lambda np, x: centered(np, x)[0], (lambda np, g, x: normalized_rule(np, g, x),), sized("nk")),
    whole("cross-entropy", LAYER, lambda np, x, *, targets: -np.sum(np.log(softmax(np, x)) * np.constant(onehot(targets, x.shape[1]), x)) / x.shape[0],
          (lambda np, g, x, targets: g * (softmax(np, x) - np.constant(onehot(targets, x.shape[1]), x)) / x.shape[0],), with_targets()),
    # order 3
    Op("cube of a sine", ORDER3, lambda np, x: np.sin(x) ** 3, (lambda np, g, x: 3 * g * np.sin(x) ** 2 * np.cos(x),), one(), ANY, order=3),
    Op("x y^3", ORDER3, lambda np, x, y: x * y**3, (lambda np, g, y: g * y**3, lambda np, g, x, y: 3 * g * x * y**2), several(2), ANY, order=3),
]
# fmt: on
BY_NAME = {op.name: op for op in RIGHT}
