"""linear, embedding, layer_norm, gelu and dropout: what is done to every position by itself."""

import functools

import numpy as np

from ...devices.memory import together
from ...errors.layers import check_indices, check_last_axis, check_table
from .blocks import as_rows, by_rows, product, products, supports
from .choose_impl import steps

# ----- linear -----------------------------------------------------------------------------------------------------


def supports_linear(x, weight, bias=None) -> bool:
    return supports(x, weight, bias) and weight.ndim == 2 and (bias is None or bias.shape == weight.shape[:1])


def linear(x, weight, bias=None):
    y = product(as_rows(x), weight.T, bias)
    return y.reshape((*x.shape[:-1], weight.shape[0]))  # (N, O) -> (..., O)


def linear_vjp(g, needs, x, weight):
    """y = x W^T + b: dx = g W, dW = g^T x, db = sum of the rows of g."""
    g, rows = as_rows(g), as_rows(x)
    pairs = [pair for pair, need in zip(((g, weight), (g.T, rows)), needs, strict=False) if need]
    wanted = iter(products(*pairs, summed=g if needs[2] else None))
    dx, dweight, dbias = (next(wanted) if need else None for need in needs)
    return None if dx is None else dx.reshape(x.shape), dweight, dbias  # (N, I) -> (..., I)


def supports_projections(x, query, key, value, query_bias=None, key_bias=None, value_bias=None) -> bool:
    pairs = (query, query_bias), (key, key_bias), (value, value_bias)
    alike = len({bias is None for _, bias in pairs}) == 1
    return alike and all(supports_linear(x, weight, bias) for weight, bias in pairs)


def projections(x, query, key, value, query_bias=None, key_bias=None, value_bias=None):
    bias = None if query_bias is None else together(query_bias, key_bias, value_bias)
    return linear(x, together(query, key, value), bias)


def projections_vjp(g, needs, x, query, key, value):
    """Those of one `linear`, in three."""
    wanted = needs[0], any(needs[1:4]), any(needs[4:])
    dx, *sums = linear_vjp(g, wanted, x, together(query, key, value))
    a, b = len(query), len(query) + len(key)
    return dx, *[part for d in sums for part in ([None] * 3 if d is None else (d[:a], d[a:b], d[b:]))]


# ----- embedding --------------------------------------------------------------------------------------------------


def embedding(weight, idx):
    check_table("embedding", weight)
    check_indices("embedding", idx, weight.shape[0])
    return weight.take(idx, axis=0)


def embedding_vjp(g, needs, weight_shape, idx):
    """Add the rows of `g` that have the same index, in a fixed order."""
    out, rows = np.zeros(weight_shape, g.dtype), as_rows(g)
    steps(rows).add_rows(rows, np.ascontiguousarray(idx.reshape(-1), np.int64), out)
    return out, None


# ----- layer_norm -------------------------------------------------------------------------------------------------


def layer_norm(x, weight=None, bias=None, *, eps=1e-5):
    check_last_axis("layer_norm", x, weight, bias)
    rows = as_rows(x)
    if len(rows) == 1:
        return _norm_of_one(x, weight, bias, eps)
    out, (mean, rstd) = np.empty(rows.shape, x.dtype), np.empty((2, len(rows), 1), x.dtype)
    of = steps(rows, weight, bias)

    def normalize(part: slice) -> None:
        of.normalize(rows[part], weight, bias, eps, out[part], mean[part], rstd[part])

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
    rows, g = as_rows(x), as_rows(g)
    dx = np.empty(rows.shape, x.dtype) if needs[0] else None
    of = steps(rows, g, weight)

    def backward(part: slice) -> list:
        into = None if dx is None else dx[part]
        sums = [np.empty(x.shape[-1], x.dtype) if need else None for need in needs[1:]]
        of.normalize_vjp(g[part], rows[part], weight, mean[part], rstd[part], into, *sums)
        return sums

    sums = by_rows(backward, rows, cost=1.5)
    dweight, dbias = (total([each[i] for each in sums], g) if needs[i + 1] else None for i in (0, 1))
    return None if dx is None else dx.reshape(x.shape), dweight, dbias  # (N, C) -> (..., C)


def total(parts: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    """The sum of partial sums (C), in their order; zeros where there is none."""
    return functools.reduce(np.add, parts) if parts else np.zeros(like.shape[-1:], like.dtype)


# ----- gelu -------------------------------------------------------------------------------------------------------


def supports_gelu(x, *, approximate="tanh") -> bool:
    return supports(x) and approximate == "tanh"


def gelu(x, *, approximate="tanh"):
    flat = x.reshape(-1)  # (..., C) -> (N)
    out, of = np.empty(flat.shape, x.dtype), steps(flat)
    by_rows(lambda part: of.gelu(flat[part], out[part]), flat, cost=1.0)
    return out.reshape(x.shape)  # (N) -> (..., C)


def gelu_vjp(g, needs, x, out):
    """From x and from `out`, which the layer that follows keeps anyway."""
    flat, y, g = (array.reshape(-1) for array in (x, out, g))  # (..., C) -> (N)
    dx, of = np.empty(flat.shape, x.dtype), steps(flat, y, g)
    by_rows(lambda part: of.gelu_vjp(g[part], flat[part], y[part], dx[part]), flat, cost=1.0)
    return (dx.reshape(x.shape),)  # (N) -> (..., C)


# ----- dropout ----------------------------------------------------------------------------------------------------


def apply_dropout_mask(x, keep, *, p):
    flat, kept = x.reshape((-1, 1)), keep.reshape((-1, 1))  # (..., C) -> (N, 1)
    out, gain = np.empty(flat.shape, x.dtype), 1 / (1 - p) if p < 1 else 0.0

    def part(rows: slice) -> None:
        np.multiply(flat[rows], gain, out=out[rows])
        np.copyto(out[rows], 0, where=~kept[rows])

    by_rows(part, flat, cost=0.5)
    return out.reshape(x.shape)  # (N, 1) -> (..., C)


def apply_dropout_mask_vjp(g, needs, keep, p):
    """The same of g."""
    return apply_dropout_mask(g, keep, p=p), None
