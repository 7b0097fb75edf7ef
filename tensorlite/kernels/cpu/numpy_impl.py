"""Kernels on a block of rows (N, C), as NumPy calls that work in place in a core's cache.

numba_impl.py has the same functions as compiled loops; choose_impl.py chooses. The last arguments are written to.
"""

import functools
import math

import numpy as np

from ...devices.memory import scratch

GELU_A, GELU_C = math.sqrt(2 / math.pi), 0.044715  # GELU in its tanh form

# ----- sums -------------------------------------------------------------------------------------------------------


@functools.lru_cache(64)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    return np.ones(n, dtype)


def sum_rows(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The sum over the rows, (N, C) -> (C), as a product with ones."""
    total: np.ndarray = np.dot(_ones(x.shape[0], x.dtype), x, out)
    return total


def sum_columns(x: np.ndarray) -> np.ndarray:
    """The sum over the last axis, (..., C) -> (..., 1), as a product with ones."""
    ones = _ones(x.shape[-1], x.dtype)
    total: np.ndarray = x.dot(ones) if x.ndim == 2 else x @ ones
    return total[..., None]


def add_rows(x: np.ndarray, ids: np.ndarray, out: np.ndarray) -> None:
    """out[ids[i]] += x[i] for all i: x (N, C), ids (N) int64, out (V, C). Sorted by id first: each sum is one run."""
    order = np.argsort(ids, kind="stable")
    if order.size:
        ids = ids[order]
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        out[ids[starts]] += np.add.reduceat(x[order], starts, axis=0)


# ----- layer_norm -------------------------------------------------------------------------------------------------


def layer_norm(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, eps: float, out: np.ndarray, mean: np.ndarray,
    rstd: np.ndarray,
) -> None:  # fmt: skip
    """out = (x - mean) rstd weight + bias, with mean (N, 1) and rstd = 1 / sqrt(variance + eps) (N, 1) of each row.

    x and out (N, C), weight and bias (C) or None.
    """
    n = x.shape[1]
    np.divide(sum_columns(x), n, out=mean)
    np.subtract(x, mean, out=out)
    np.divide(np.vecdot(out, out)[:, None], n, out=rstd)  # of the centered values: no cancellation
    rstd += eps
    np.sqrt(rstd, out=rstd)
    np.reciprocal(rstd, out=rstd)
    out *= rstd
    if weight is not None:
        out *= weight
    if bias is not None:
        out += bias


def layer_norm_vjp(
    g: np.ndarray, x: np.ndarray, weight: np.ndarray | None, mean: np.ndarray, rstd: np.ndarray,
    dx: np.ndarray | None, dweight: np.ndarray | None, dbias: np.ndarray | None,
) -> None:  # fmt: skip
    """With z = (x - mean) rstd, h = g weight: dx = rstd (h - mean(h) - z mean(h z)), dweight = sum g z, dbias = sum g.

    A result that is None is not needed."""
    n = x.shape[1]
    z, work = (scratch(slot, g.shape, g.dtype) for slot in (0, 1))
    np.subtract(x, mean, out=z)
    z *= rstd
    if dweight is not None:
        sum_rows(np.multiply(g, z, out=work), dweight)
    if dbias is not None:
        sum_rows(g, dbias)
    if dx is not None:
        np.multiply(g, 1 if weight is None else weight, out=dx)
        z *= np.vecdot(dx, z)[:, None] / n
        dx -= sum_columns(dx) / n
        dx -= z
        dx *= rstd


# ----- gelu -------------------------------------------------------------------------------------------------------


def gelu(x: np.ndarray, out: np.ndarray) -> None:
    """out = x s, with s = (1 + tanh(a x (1 + c x^2))) / 2. Both (N)."""
    np.multiply(x, x, out=out)
    out *= GELU_A * GELU_C
    out += GELU_A
    out *= x
    np.tanh(out, out=out)
    out += 1
    out *= 0.5
    out *= x


def gelu_vjp(g: np.ndarray, x: np.ndarray, y: np.ndarray, dx: np.ndarray) -> None:
    """dx = g (s + k (1 - s)), with s = y / x and k = 2 a y (1 + 3 c x^2); y = gelu(x). All (N)."""
    s = scratch(0, x.shape, x.dtype)
    with np.errstate(invalid="ignore"):  # 0 / 0, which the next line replaces
        np.divide(y, x, out=s)
    np.copyto(s, 0.5, where=x == 0)
    np.multiply(x, x, out=dx)
    dx *= 6 * GELU_A * GELU_C
    dx += 2 * GELU_A
    dx *= y
    dx *= np.subtract(1, s, out=scratch(1, x.shape, x.dtype))
    dx += s
    dx *= g


# ----- softmax ----------------------------------------------------------------------------------------------------


@functools.lru_cache(16)
def _later_keys(t: int, s: int, seen: int) -> np.ndarray:
    """(t, s) booleans: False for the first seen + i keys of query i, True for the later ones."""
    return np.arange(s)[None, :] >= np.arange(seen, seen + t)[:, None]


def softmax(seen: int, w: np.ndarray) -> None:
    """Scores w (..., t, s) become weights in place: query i sees the first `seen` + i keys. A row of -inf becomes 0."""
    t, s = w.shape[-2:]
    if seen < s:
        by_all = max(0, seen)  # so many keys are seen by every query
        np.copyto(w[..., by_all:], -np.inf, where=_later_keys(t, s, seen)[:, by_all:])
    top = np.maximum.reduce(w, axis=-1, keepdims=True, initial=-np.inf)
    none_is_empty = np.minimum.reduce(top, axis=None, initial=np.inf) > -np.inf
    if not none_is_empty:
        top[top == -np.inf] = 0  # a row that may attend to nothing
    w -= top
    np.exp(w, out=w)
    sums = sum_columns(w)
    if not none_is_empty:
        sums[sums == 0] = 1
    w /= sums


def softmax_vjp(w: np.ndarray, dw: np.ndarray) -> None:
    """dw, the gradient of the weights w (..., t, s), becomes that of the scores in place: w (dw - sum(dw w))."""
    dw -= np.vecdot(dw, w)[..., None]
    dw *= w


def exp_minus_max(x: np.ndarray, top: np.ndarray, total: np.ndarray) -> None:
    """x (N, P) becomes e^(x - top) in place, with each row's maximum in top (N, 1) and its new sum in total (N, 1)."""
    x.max(axis=1, keepdims=True, out=top)
    x -= np.where(top == -np.inf, 0, top)
    np.exp(x, out=x)
    total[...] = sum_columns(x)
