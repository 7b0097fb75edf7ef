"""The steps of the kernels in NumPy: to a block of rows (N, C) in a core's cache, one operation after another.

loops.py has the same functions as compiled loops; steps.py chooses. The last arguments are written to.
"""

import functools
import math

import numpy as np

from ...devices.memory import scratch

A, C = math.sqrt(2 / math.pi), 0.044715  # of GELU, by tanh


@functools.lru_cache(64)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    return np.ones(n, dtype)


def sum_rows(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """(N, C) -> (C)"""
    return np.matmul(_ones(x.shape[0], x.dtype), x, out=out)


def sum_columns(x: np.ndarray) -> np.ndarray:
    """(..., C) -> (..., 1)"""
    return (x @ _ones(x.shape[-1], x.dtype))[..., None]


def add_rows(x, ids, out) -> None:
    """Add the rows of x (N, C) to those of out (V, C) that ids (N) name: sorted first, so that each sum is one run."""
    order = np.argsort(ids, kind="stable")
    if order.size:
        ids = ids[order]
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        out[ids[starts]] += np.add.reduceat(x[order], starts, axis=0)


def normalize(x, weight, bias, eps, out, mean, rstd) -> None:
    """LayerNorm: out (N, C), mean (N, 1) and rstd = 1 / sqrt(variance + eps) (N, 1). weight, bias: (C) or None."""
    n = x.shape[1]
    np.divide(sum_columns(x), n, out=mean)
    np.subtract(x, mean, out=out)
    np.divide(np.vecdot(out, out)[:, None], n, out=rstd)  # of the centered values: no cancellation
    rstd += eps
    np.sqrt(rstd, out=rstd)
    np.divide(1, rstd, out=rstd)
    out *= rstd
    if weight is not None:
        out *= weight
    if bias is not None:
        out += bias


def normalize_vjp(g, x, weight, mean, rstd, dx, dweight, dbias) -> None:
    """With z = (x - mean) rstd, h = g weight: dx = rstd (h - mean(h) - z mean(h z)), dweight = sum g z, dbias = sum g.

    What is None is not wanted."""
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


def gelu(x, out) -> None:
    """x s, with s = (1 + tanh(a x (1 + c x^2))) / 2. Both (N)."""
    np.multiply(x, x, out=out)
    out *= A * C
    out += A
    out *= x
    np.tanh(out, out=out)
    out += 1
    out *= 0.5
    out *= x


def gelu_vjp(g, x, y, dx) -> None:
    """g (s + k (1 - s)), with s = y / x and k = 2 a y (1 + 3 c x^2); y = gelu(x). All (N)."""
    s = scratch(0, x.shape, x.dtype)
    with np.errstate(invalid="ignore"):  # 0 / 0, whose place the next line fills
        np.divide(y, x, out=s)
    np.copyto(s, 0.5, where=x == 0)
    np.multiply(x, x, out=dx)
    dx *= 6 * A * C
    dx += 2 * A
    dx *= y
    dx *= np.subtract(1, s, out=scratch(1, x.shape, x.dtype))
    dx += s
    dx *= g


@functools.lru_cache(16)
def _unseen(t: int, s: int, seen: int) -> np.ndarray:
    """(t, s): False for the first seen + i keys of position i, otherwise True."""
    return np.arange(s)[None, :] >= np.arange(seen, seen + t)[:, None]


def softmax(seen, w) -> None:
    """In place, of scores w (..., t, s): position i sees the first `seen` + i keys, and gets 0 where that is none."""
    t, s = w.shape[-2:]
    if seen < s:
        by_all = max(0, seen)  # so many keys are seen by every position
        np.copyto(w[..., by_all:], -np.inf, where=_unseen(t, s, seen)[:, by_all:])
    top = w.max(axis=-1, keepdims=True, initial=-np.inf)
    if not np.isfinite(top).all():
        top[top == -np.inf] = 0  # a row that may attend to nothing
    w -= top
    np.exp(w, out=w)
    sums = sum_columns(w)
    sums[sums == 0] = 1
    w /= sums


def softmax_vjp(w, dw) -> None:
    """In place, of dw, the gradient of the weights w (..., t, s): w (dw - sum(dw w)), that of the scores."""
    dw -= np.vecdot(dw, w)[..., None]
    dw *= w


def exponentials(x, top, total) -> None:
    """In place, of x (N, P): e^(x - top), with each row's maximum in top (N, 1) and its sum in total (N, 1)."""
    x.max(axis=1, keepdims=True, out=top)
    x -= np.where(top == -np.inf, 0, top)
    np.exp(x, out=x)
    total[...] = sum_columns(x)
