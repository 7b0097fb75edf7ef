"""linear, embedding, layer_norm, gelu and dropout: what is done to every position by itself."""

import functools
import math

import numpy as np

from ...backend import scratch
from ...functional import check_indices, check_last_axis
from .blocks import as_rows, by_rows, product, products, serves, sum_columns, sum_rows

# ----- linear -----------------------------------------------------------------------------------------------------


def serves_linear(x, weight, bias=None) -> bool:
    return serves(x, weight, bias) and weight.ndim == 2


def linear(x, weight, bias=None):
    y = product(as_rows(x), weight.T, bias)
    return y.reshape((*x.shape[:-1], weight.shape[0]))  # (N, O) -> (..., O)


def linear_vjp(g, needs, x, weight):
    """y = x W^T + b: dx = g W, dW = g^T x, db = sum of the rows of g."""
    g, rows = as_rows(g), as_rows(x)
    wanted = iter(products(*[pair for pair, need in zip(((g, weight), (g.T, rows)), needs, strict=False) if need]))
    dx = next(wanted).reshape(x.shape) if needs[0] else None  # (N, I) -> (..., I)
    dweight = next(wanted) if needs[1] else None
    return dx, dweight, sum_rows(g) if needs[2] else None


# ----- embedding --------------------------------------------------------------------------------------------------


def embedding(weight, idx):
    check_indices("embedding", idx, weight.shape[0])
    return weight.take(idx, axis=0)


def embedding_vjp(g, needs, weight_shape, idx):
    """Add the rows of `g` that have the same index: sorted first, so that each sum is one run, in a fixed order."""
    out = np.zeros(weight_shape, g.dtype)
    order = np.argsort(idx, axis=None, kind="stable")
    if order.size:
        ids = idx.reshape(-1)[order]
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        out[ids[starts]] = np.add.reduceat(as_rows(g)[order], starts, axis=0)
    return out, None


# ----- layer_norm -------------------------------------------------------------------------------------------------


def layer_norm(x, weight=None, bias=None, *, eps=1e-5):
    check_last_axis("layer_norm", x, weight, bias)
    n, rows = x.shape[-1], as_rows(x)
    if len(rows) == 1:
        return _norm_of_one(x, weight, bias, eps)
    out, (mean, rstd) = np.empty(rows.shape, x.dtype), np.empty((2, len(rows), 1), x.dtype)

    def normalize(part: slice) -> None:
        y, m, r = out[part], mean[part], rstd[part]
        np.divide(sum_columns(rows[part]), n, out=m)
        np.subtract(rows[part], m, out=y)
        np.divide(np.vecdot(y, y)[:, None], n, out=r)  # of the centered values: no cancellation
        r += eps
        np.sqrt(r, out=r)
        np.divide(1, r, out=r)
        y *= r
        if weight is not None:
            y *= weight
        if bias is not None:
            y += bias

    by_rows(normalize, rows, cost=0.8)
    return out.reshape(x.shape), {"mean": mean, "rstd": rstd}  # (N, C) -> (..., C)


def _norm_of_one(x, weight, bias, eps):
    """The same for one row: mean and deviation are numbers. It is what generation asks for, token by token."""
    mean = np.add.reduce(x, axis=None) / x.size
    out = x - mean
    flat = out.reshape(-1)
    rstd = 1 / np.sqrt(flat @ flat / x.size + eps)
    out *= rstd
    if weight is not None:
        out *= weight
    if bias is not None:
        out += bias
    kept = np.array([[mean], [rstd]], x.dtype)
    return out, {"mean": kept[:1], "rstd": kept[1:]}


def layer_norm_vjp(g, needs, x, weight, mean, rstd):
    """With z = (x - mean) rstd, h = g weight: dx = rstd (h - mean(h) - z mean(h z)), dweight = sum g z."""
    n, rows, g = x.shape[-1], as_rows(x), as_rows(g)
    dx = np.empty(rows.shape, x.dtype) if needs[0] else None

    def backward(part: slice) -> tuple:
        g_part = g[part]
        z, work = (scratch(slot, g_part.shape, g.dtype) for slot in (0, 1))
        np.subtract(rows[part], mean[part], out=z)
        z *= rstd[part]
        dweight = sum_rows(np.multiply(g_part, z, out=work)) if needs[1] else None
        dbias = sum_rows(g_part) if needs[2] else None
        if dx is not None:
            h = dx[part]
            np.multiply(g_part, 1 if weight is None else weight, out=h)
            z *= np.vecdot(h, z)[:, None] / n
            h -= sum_columns(h) / n
            h -= z
            h *= rstd[part]
        return dweight, dbias

    sums = by_rows(backward, rows, cost=1.5)
    dweight, dbias = (total([each[i] for each in sums], g) if needs[i + 1] else None for i in (0, 1))
    return None if dx is None else dx.reshape(x.shape), dweight, dbias  # (N, C) -> (..., C)


def total(parts: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    """The sum of partial sums (C), in their order; zeros where there is none."""
    return functools.reduce(np.add, parts) if parts else np.zeros(like.shape[-1:], like.dtype)


# ----- gelu -------------------------------------------------------------------------------------------------------

_A, _C = math.sqrt(2 / math.pi), 0.044715


def serves_gelu(x, *, approximate="tanh") -> bool:
    return serves(x) and approximate == "tanh"


def gelu(x, *, approximate="tanh"):
    """x s, with s = (1 + tanh(a x (1 + c x^2))) / 2."""
    flat = x.reshape((-1, 1))  # (..., C) -> (N, 1)
    out = np.empty(flat.shape, x.dtype)

    def forward(part: slice) -> None:
        xs, s = flat[part], out[part]
        np.multiply(xs, xs, out=s)
        s *= _A * _C
        s += _A
        s *= xs
        np.tanh(s, out=s)
        s += 1
        s *= 0.5
        s *= xs

    by_rows(forward, flat, cost=1.0)
    return out.reshape(x.shape)  # (N, 1) -> (..., C)


def gelu_vjp(g, needs, x, out):
    """g (s + k - k s), with s = out / x and k = 2 a out (1 + 3 c x^2): the layer that follows keeps `out` anyway."""
    shape = x.shape
    g, x, out = (array.reshape((-1, 1)) for array in (g, x, out))  # (..., C) -> (N, 1)
    dx = np.empty(x.shape, x.dtype)

    def backward(part: slice) -> None:
        xs, y, k = x[part], out[part], dx[part]
        s = scratch(0, xs.shape, x.dtype)
        with np.errstate(invalid="ignore"):  # 0 / 0, whose place the next line fills
            np.divide(y, xs, out=s)
        np.copyto(s, 0.5, where=xs == 0)
        np.multiply(xs, xs, out=k)
        k *= 6 * _A * _C
        k += 2 * _A
        k *= y
        k *= np.subtract(1, s, out=scratch(1, xs.shape, x.dtype))
        k += s
        k *= g[part]

    by_rows(backward, x, cost=1.0)
    return (dx.reshape(shape),)  # (N, 1) -> (..., C)


# ----- dropout ----------------------------------------------------------------------------------------------------


def dropped(x, keep, *, p):
    flat, kept = x.reshape((-1, 1)), keep.reshape((-1, 1))  # (..., C) -> (N, 1)
    out, gain = np.empty(flat.shape, x.dtype), 1 / (1 - p) if p < 1 else 0.0

    def part(rows: slice) -> None:
        np.multiply(flat[rows], gain, out=out[rows])
        np.copyto(out[rows], 0, where=~kept[rows])

    by_rows(part, flat, cost=0.5)
    return out.reshape(x.shape)  # (N, 1) -> (..., C)


def dropped_vjp(g, needs, keep, p):
    """The same of g."""
    return dropped(g, keep, p=p), None
