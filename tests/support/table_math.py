"""Rows of the table: elementwise ops and reductions."""

import math

import numpy as np
from hypothesis import strategies as st
from rows import Row, arrays, booleans, broadcastable, count, expand, local, reductions

import tensorlite as tl
from tensorlite import ops
from tensorlite.primitive import identity

POSITIVE = {"low": 0.2, "high": 3.0, "avoid": ()}
ANY = {"avoid": ()}
AWAY_FROM_0 = {"gap": 0.3}
INTEGERS = {"low": -3, "high": 3, "avoid": (-3, -2, -1, 0, 1, 2, 3)}
HALVES = {"low": -3, "high": 3, "avoid": (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)}


@st.composite
def conditions(draw):
    shape, *others = draw(broadcastable(3))
    return tuple(others), {"condition": draw(booleans(shape))}


EXTREME = {"low": np.maximum, "high": np.minimum}  # what a limit is


def on_integers(op):
    """`op` of the integers 16 x, and of which of them are positive: two halves of one result."""

    def of(*xs):
        integers = [(x * 16).astype(np.int64) for x in xs]
        return op(*integers) * 2 + op(*[x > 0 for x in integers])

    return of


def zero(*xs, **meta):
    return 0.0


def one(*xs, **meta):
    return 1.0


def tie(x, y):  # half of it goes to the other; (beside nan, whatever is not worse gets all, as in torch)
    return (x == y) / 2


# fmt: off
ELEMENTWISE = [
    Row("add",        tl.add,        lambda x, y: x + y,             local(one, one),                                                   arrays(2), exact=True, step=1.0),
    Row("sub",        tl.sub,        lambda x, y: x - y,             local(one, lambda x, y: -1),                                       arrays(2), exact=True, step=1.0),
    Row("mul",        tl.mul,        lambda x, y: x * y,             local(lambda x, y: y, lambda x, y: x),                             arrays(2), exact=True, step=1.0),
    Row("div",        tl.div,        lambda x, y: x / y,             local(lambda x, y: 1 / y, lambda x, y: -(x / y) / y),                arrays(2), AWAY_FROM_0),
    Row("floor_divide", tl.floor_divide, np.floor_divide,            local(zero, zero),                                                 arrays(2), AWAY_FROM_0, differences=False),
    Row("floor_divide, by a number", lambda x: tl.floor_divide(x, 1.0), lambda x: np.floor(x * 1.0), local(zero),                                          arrays(1), INTEGERS, covers=("floor_divide",)),
    Row("remainder",  tl.remainder,  np.remainder,                   local(one, lambda x, y: -np.floor_divide(x, y)),                    arrays(2), AWAY_FROM_0, differences=False),
    Row("remainder, by a number", lambda x: tl.remainder(x, 1.0), lambda x: x * 1.0 - np.floor(x), local(one),                                  arrays(1), INTEGERS, covers=("remainder",)),
    Row("neg",        tl.neg,        lambda x: -x,                   local(lambda x: -1),                                               arrays(1), exact=True, step=1.0),
    Row("abs",        tl.abs,        np.abs,                         local(np.sign),                                                    arrays(1), exact=True),
    Row("square",     tl.square,     lambda x: x**2,                 local(lambda x: 2 * x),                                            arrays(1), exact=True, step=1.0),
    Row("sqrt",       tl.sqrt,       np.sqrt,                        local(lambda x: 1 / (2 * np.sqrt(x))),                             arrays(1), POSITIVE),
    Row("root",       ops._root,     np.sqrt,                        local(lambda x: np.where(x == 0, 0, 1 / (2 * np.sqrt(x)))),        arrays(1), POSITIVE),
    Row("rsqrt",      tl.rsqrt,      lambda x: 1 / np.sqrt(x),       local(lambda x: -1 / (2 * np.sqrt(x) ** 3)),                       arrays(1), POSITIVE),
    Row("reciprocal", tl.reciprocal, lambda x: 1 / x,                local(lambda x: -1 / x**2),                                        arrays(1), AWAY_FROM_0),
    Row("pow",        tl.pow,        np.power,                       local(lambda x, y: np.where(y == 0, 0, y * x ** (y - 1)),
                                                                           lambda x, y: np.where((x == 0) & (y >= 0), 0, x**y * np.log(x))), arrays(2), POSITIVE, covers=("power",)),
    Row("pow, to a number", lambda x, n: tl.pow(x, n), lambda x, n: x**n, local(lambda x, n: n * x ** (n - 1) if n else 0),            arrays(1, n=st.sampled_from([0, 1, 2, 3, -1, -2, 0.5, 2.5, 1.0])), POSITIVE, covers=("powern",)),
    Row("pow, of a number", lambda x, b: tl.pow(b, x), lambda x, b: b**x,    local(lambda x, b: b**x * math.log(b)),                            arrays(1, b=st.sampled_from([2.0, 0.5, 3, 1])), ANY, covers=("power",)),
    Row("exp",        tl.exp,        np.exp,                         local(np.exp),                                                     arrays(1), ANY),
    Row("expm1",      tl.expm1,      np.expm1,                       local(np.exp),                                                     arrays(1), ANY),
    Row("log",        tl.log,        np.log,                         local(lambda x: 1 / x),                                            arrays(1), POSITIVE),
    Row("log1p",      tl.log1p,      np.log1p,                       local(lambda x: 1 / (1 + x)),                                      arrays(1), {"low": -0.7, "avoid": ()}),
    Row("log2",       tl.log2,       np.log2,                        local(lambda x: 1 / (x * math.log(2))),                            arrays(1), POSITIVE),
    Row("sin",        tl.sin,        np.sin,                         local(np.cos),                                                     arrays(1), ANY),
    Row("cos",        tl.cos,        np.cos,                         local(lambda x: -np.sin(x)),                                       arrays(1), ANY),
    Row("tanh",       tl.tanh,       np.tanh,                        local(lambda x: 1 / np.cosh(x) ** 2),                              arrays(1), ANY),
    Row("sigmoid",    tl.sigmoid,    lambda x: 1 / (1 + np.exp(-x)), local(lambda x: 1 / (2 * np.cosh(x / 2)) ** 2),                    arrays(1), ANY),
    Row("softplus",   tl.softplus,   lambda x: np.log(1 + np.exp(x)), local(lambda x: 1 / (1 + np.exp(-x))),                            arrays(1), ANY),
    Row("erf",        tl.erf,        np.vectorize(math.erf, [float]), local(lambda x: 2 / math.sqrt(math.pi) * np.exp(-x**2)),          arrays(1), ANY),
    Row("maximum",    tl.maximum,    np.maximum,                     local(lambda x, y: ~(x < y) - tie(x, y), lambda x, y: ~(y < x) - tie(x, y)), arrays(2), exact=True),
    Row("minimum",    tl.minimum,    np.minimum,                     local(lambda x, y: ~(x > y) - tie(x, y), lambda x, y: ~(y > x) - tie(x, y)), arrays(2), exact=True),
    Row("clip",       lambda x, limits: tl.clip(x, *limits), lambda x, limits: np.clip(x, *limits),
        local(lambda x, limits: (x >= (-math.inf if limits[0] is None else limits[0])) & (x <= (math.inf if limits[1] is None else limits[1]))),
        arrays(1, limits=st.sampled_from([(-1, 1), (None, 0.5), (-0.5, None), (None, None), (0, 0)])), {"avoid": (-1, -0.5, 0, 0.5, 1)}, exact=True, kinks=False),
    Row("clip, to arrays", tl.clip, np.clip, local(lambda x, a, b: (x >= a) & (x <= b), lambda x, a, b: (x < a) & (a <= b), lambda x, a, b: (x > b) | (a > b)), arrays(3), exact=True, kinks=False),
    Row("clip, to an array", lambda x, limit, side: tl.clip(x, **{side: limit}), lambda x, limit, side: EXTREME[side](x, limit),
        local(lambda x, limit, side: (x == limit) | (EXTREME[side](x, limit) == x), lambda x, limit, side: EXTREME[side](x, limit) != x), arrays(2, side=st.sampled_from(["low", "high"])), exact=True),
    Row("where",      lambda x, y, condition: tl.where(condition, x, y), lambda x, y, condition: np.where(condition, x, y),
        local(lambda x, y, condition: condition, lambda x, y, condition: ~condition), conditions(), ANY, exact=True),
    Row("identity",   identity,      np.copy,                        local(one),                                                        arrays(1), ANY, exact=True, step=1.0),
    Row("sign",       tl.sign,       np.sign,                        local(zero),                                                       arrays(1), exact=True),
    Row("floor",      tl.floor,      np.floor,                       local(zero),                                                       arrays(1), INTEGERS, exact=True),
    Row("ceil",       tl.ceil,       np.ceil,                        local(zero),                                                       arrays(1), INTEGERS, exact=True),
    Row("round",      tl.round,      np.round,                       local(zero),                                                       arrays(1), HALVES, exact=True),
    Row("zeros_like", ops.zeros_like, np.zeros_like,                 None,                                                              arrays(1)),
    Row("ones_like",  ops.ones_like, np.ones_like,                   None,                                                              arrays(1)),
    *[Row(name, getattr(tl, name), getattr(np, name),                None,                                                              arrays(2))
      for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or", "logical_xor")],
    *[Row(name, getattr(tl, name), getattr(np, name),                None,                                                              arrays(1))
      for name in ("logical_not", "isnan", "isinf", "isfinite")],
    *[Row(name, on_integers(getattr(tl, name)), on_integers(getattr(np, name)), None,                                                   arrays(2))
      for name in ("bitwise_and", "bitwise_or", "bitwise_xor")],
    Row("invert",     on_integers(tl.invert), on_integers(np.invert), None,                                                             arrays(1)),
]
# fmt: on


# ----- reductions: the gradient of each element, the slow and obvious way -----------------------------------------


def sum_gradient(g, x, axis, keepdims):
    return (expand(g, x, axis, keepdims),)


def mean_gradient(g, x, axis, keepdims):
    return (expand(g, x, axis, keepdims) / count(x, axis),)


def var_gradient(g, x, axis, keepdims, ddof):
    distance = x - np.mean(x, axis, keepdims=True)
    return (expand(g, x, axis, keepdims) * 2 * distance / (count(x, axis) - ddof),)


def std_gradient(g, x, axis, keepdims, ddof):
    distance, std = x - np.mean(x, axis, keepdims=True), np.std(x, axis, ddof=ddof, keepdims=True)
    slope = distance / ((count(x, axis) - ddof) * np.where(std == 0, 1, std))
    return (expand(g, x, axis, keepdims) * np.where(std == 0, 0, slope),)


def norm_gradient(g, x, axis, keepdims):
    norm = norm_value(x, axis, True)
    return (expand(g, x, axis, keepdims) * x / np.where(norm == 0, 1, norm),)


def norm_value(x, axis, keepdims):
    return np.sqrt((x * x).sum(axis, keepdims=keepdims))


def prod_gradient(g, x, axis, keepdims):
    """By an element, the product of all others."""
    g, out = expand(g, x, axis, keepdims), np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        others = x.copy()
        others[index] = 1
        out[index] = (g * expand(np.prod(others, axis, keepdims=keepdims), x, axis, keepdims))[index]
    return (out,)


def cumprod_gradient(g, x, axis):
    """The element at i is a factor of every product from i on: of each, the product of the other factors."""
    if axis is None:
        return (cumprod_gradient(g, x.reshape(-1), 0)[0].reshape(x.shape),)
    out = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        others = x.copy()
        others[index] = 1
        line = list(index)
        line[axis] = slice(index[axis], None)
        out[index] = (g * np.cumprod(others, axis))[tuple(line)].sum()
    return (out,)


def cumsum_gradient(g, x, axis):
    """The element at i is in every sum from i on."""
    if axis is None:
        return (cumsum_gradient(g, x.reshape(-1), 0)[0].reshape(x.shape),)
    return (g.sum(axis, keepdims=True) - np.cumsum(g, axis) + g,)


def extreme_gradient(extreme):
    def gradient(g, x, axis, keepdims):
        attained = x == extreme(x, axis, keepdims=True)
        return (expand(g, x, axis, keepdims) * attained / attained.sum(axis, keepdims=True),)

    return gradient


def largest_gradient(g, x, axis, keepdims):
    return (extreme_gradient(np.max)(g, np.abs(x), axis, keepdims)[0] * np.sign(x),)


def logsumexp_value(x, axis, keepdims):
    return np.log(np.exp(x).sum(axis, keepdims=keepdims))


def logsumexp_gradient(g, x, axis, keepdims):
    return (expand(g, x, axis, keepdims) * np.exp(x) / np.exp(x).sum(axis, keepdims=True),)


def sort_gradient(g, x, axis):
    out = np.zeros(x.shape)
    np.put_along_axis(out, np.argsort(x, axis, kind="stable"), g, axis)
    return (out,)


def descending(x, k, axis):
    """The places of the k largest, the lower index first among equals."""
    return np.take(np.argsort(-x, axis, kind="stable"), np.arange(k), axis)


def topk_gradient(g, x, k, axis):
    out = np.zeros(x.shape)
    np.put_along_axis(out, descending(x, k, axis), g, axis)
    return (out,)


@st.composite
def top(draw):
    (shape,), meta = draw(reductions(tuples=False, keepdims=False, none=False, min_dims=1))
    return (shape,), meta | {"k": draw(st.integers(0, shape[meta["axis"]]))}


@st.composite
def deviations(draw):
    (shape,), meta = draw(reductions())
    return (shape,), meta | {"ddof": draw(st.integers(0, 1)) if count(np.empty(shape), meta["axis"]) > 1 else 0}


CUMULATIVE = reductions(tuples=False, keepdims=False)
ONE_AXIS = reductions(tuples=False, keepdims=False, none=False, min_dims=1)
FULL = reductions(empty=False)
# fmt: off
REDUCTIONS = [
    Row("sum",       tl.sum,       np.sum,          sum_gradient,                reductions(), exact=True, step=1.0),
    Row("mean",      tl.mean,      np.mean,         mean_gradient,               reductions(), covers=("sum", "div"), step=1.0),
    Row("var",       tl.var,       np.var,          var_gradient,                deviations(), covers=("sum", "square")),
    Row("std",       tl.std,       np.std,          std_gradient,                deviations(), covers=("root",)),
    Row("norm",      tl.norm,      norm_value,      norm_gradient,               reductions(), covers=("root",)),
    Row("norm, of order 1", lambda x, **m: tl.norm(x, **m, ord=1), lambda x, axis, keepdims: np.abs(x * 1.0).sum(axis, keepdims=keepdims), lambda g, x, axis, keepdims: (expand(g, x, axis, keepdims) * np.sign(x),), reductions(), covers=("abs",)),
    Row("norm, largest", lambda x, **m: tl.norm(x, **m, ord=math.inf), lambda x, axis, keepdims: np.abs(x * 1.0).max(axis, keepdims=keepdims), largest_gradient, FULL, covers=("max",)),
    Row("prod",      tl.prod,      np.prod,         prod_gradient,               reductions(), covers=("mul",)),
    Row("max",       tl.max,       np.max,          extreme_gradient(np.max),    FULL),
    Row("min",       tl.min,       np.min,          extreme_gradient(np.min),    FULL),
    Row("logsumexp", tl.logsumexp, logsumexp_value, logsumexp_gradient,          FULL, {"avoid": ()}),
    Row("cumsum",    tl.cumsum,    np.cumsum,       cumsum_gradient,             CUMULATIVE, exact=True, step=1.0),
    Row("cumprod",   tl.cumprod,   np.cumprod,      cumprod_gradient,            CUMULATIVE, covers=("mul", "concat")),
    Row("argmax",    tl.argmax,    np.argmax,       None,                        reductions(empty=False, tuples=False)),
    Row("argmin",    tl.argmin,    np.argmin,       None,                        reductions(empty=False, tuples=False)),
    Row("all",       tl.all,       np.all,          None,                        reductions()),
    Row("any",       tl.any,       np.any,          None,                        reductions()),
    Row("sort",      tl.sort,      np.sort,         sort_gradient,               ONE_AXIS, exact=True),
    Row("argsort",   tl.argsort,   lambda x, axis: np.argsort(x, axis, kind="stable"), None, ONE_AXIS),
    Row("topk",      lambda x, k, axis: tl.topk(x, k, axis)[0], lambda x, k, axis: np.take_along_axis(x, descending(x, k, axis), axis), topk_gradient, top(), exact=True, covers=("getitem",)),
    Row("topk, places", lambda x, k, axis: tl.topk(x, k, axis)[1], descending, None, top(), covers=("argsort", "largest")),
]
# fmt: on
