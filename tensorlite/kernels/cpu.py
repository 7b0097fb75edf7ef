"""NumPy kernels of the hot ops: few passes over memory, results written in place, matrix products wherever one fits.

One idea: rows. Every function sees its input as (rows, columns) and leaves to BLAS what BLAS can do: a mean is a
product with a vector of ones, a sum over rows too (7 times faster than `sum`). Each formula is the derivative of its
namesake in functional.py, written for arrays; the property tests hold the two together.
"""

import functools
import math

import numpy as np

from ..backend import in_parts
from ..functional import check_cross_entropy, check_indices, check_last_axis
from ..primitive import unbroadcast


def serves(x, *others, **_) -> bool:
    """These kernels are for arrays in main memory, all floating ones float32 or all float64."""
    usual = type(x) is np.ndarray and x.dtype.char in "fd" and x.ndim > 0
    return usual and all(
        o is None or (type(o) is np.ndarray and (o.dtype == x.dtype or o.dtype.kind in "iub")) for o in others
    )


def _rows(x: np.ndarray) -> np.ndarray:
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))  # (..., C) -> (N, C)


@functools.lru_cache(64)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    return np.ones(n, dtype)


def sum_rows(x: np.ndarray) -> np.ndarray:
    """(N, C) -> (C)"""
    return _ones(x.shape[0], x.dtype) @ x


def sum_columns(x: np.ndarray) -> np.ndarray:
    """(..., C) -> (..., 1)"""
    return (x @ _ones(x.shape[-1], x.dtype))[..., None]


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (M, K) @ b (K, N), rows of the result over threads, or columns where there are few rows."""
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)
    nanoseconds = a.size * b.shape[1] / 100  # at 200 GF/s
    if a.shape[0] >= 16:
        in_parts(lambda part: np.matmul(a[part], b, out=out[part]), a.shape[0], nanoseconds)
    else:  # bound by reading b
        in_parts(lambda part: np.matmul(a, b[:, part], out=out[:, part]), b.shape[1], max(nanoseconds, b.size / 6))
    return out


# ----- linear -----------------------------------------------------------------------------------------------------


def serves_linear(x, weight, bias=None) -> bool:
    return serves(x, weight, bias) and weight.ndim == 2


def linear(x, weight, bias=None):
    y = product(_rows(x), weight.T)
    if bias is not None:
        y += bias
    return y.reshape((*x.shape[:-1], weight.shape[0]))  # (N, O) -> (..., O)


def linear_vjp(g, needs, x, weight):
    """y = x W^T + b: dx = g W, dW = g^T x, db = sum of the rows of g."""
    g = _rows(g)
    dx = product(g, weight).reshape(x.shape) if needs[0] else None  # (N, I) -> (..., I)
    dweight = product(g.T, _rows(x)) if needs[1] else None
    return dx, dweight, sum_rows(g) if len(needs) > 2 and needs[2] else None


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
        out[ids[starts]] = np.add.reduceat(_rows(g)[order], starts, axis=0)
    return out, None


# ----- layer_norm -------------------------------------------------------------------------------------------------


def layer_norm(x, weight=None, bias=None, *, eps=1e-5):
    check_last_axis("layer_norm", x, weight, bias)
    n = x.shape[-1]
    mean = sum_columns(x)
    mean /= n
    out = x - mean
    rstd = np.vecdot(out, out)[..., None]  # of the centered values: no cancellation
    rstd /= n
    rstd += eps
    np.sqrt(rstd, out=rstd)
    np.divide(1, rstd, out=rstd)
    out *= rstd
    if weight is not None:
        out *= weight
    if bias is not None:
        out += bias
    return out, {"mean": mean, "rstd": rstd}


def layer_norm_vjp(g, needs, x, weight, mean, rstd):
    """With z = (x - mean) rstd, h = g weight: dx = rstd (h - mean(h) - z mean(h z)), dweight = sum g z."""
    n = x.shape[-1]
    z = x - mean
    z *= rstd
    dweight = sum_rows(_rows(g * z)) if needs[1] else None
    dbias = sum_rows(_rows(g)) if needs[2] else None
    if not needs[0]:
        return None, dweight, dbias
    dx = g.copy() if weight is None else g * weight
    h_mean = sum_columns(dx)
    h_mean /= n
    z *= np.vecdot(dx, z)[..., None] / n
    dx -= h_mean
    dx -= z
    dx *= rstd
    return dx, dweight, dbias


# ----- gelu -------------------------------------------------------------------------------------------------------

_A, _C = math.sqrt(2 / math.pi), 0.044715


def serves_gelu(x, *, approximate="tanh") -> bool:
    return serves(x) and approximate == "tanh"


def gelu(x, *, approximate="tanh"):
    """0.5 x (1 + t), t = tanh(a (x + c x^3)); kept is its derivative (1 + t)/2 (1 + a x (1 + 3 c x^2) (1 - t))."""
    flat = x.reshape(-1)
    out, slope = np.empty_like(flat), np.empty_like(flat)
    in_parts(lambda part: _gelu(flat[part], out[part], slope[part]), flat.size, 1.5 * flat.size)
    return out.reshape(x.shape), {"slope": slope.reshape(x.shape)}  # (N) -> (..., C)


def _gelu(x, out, slope):
    np.multiply(x, x, out=slope)
    t = slope * (_A * _C)
    t += _A
    t *= x
    np.tanh(t, out=t)
    np.subtract(1, t, out=out)
    slope *= 3 * _A * _C
    slope += _A
    slope *= x
    slope *= out
    slope += 1
    t += 1
    t *= 0.5
    slope *= t
    np.multiply(x, t, out=out)


def gelu_vjp(g, needs, slope):
    return (g * slope,)


# ----- attention --------------------------------------------------------------------------------------------------


@functools.lru_cache(16)
def _causal_bias(T: int, S: int, dtype: np.dtype) -> np.ndarray:
    """(T, S): 0 where position t of the last T of S may see position s, otherwise -inf."""
    return np.where(np.arange(S)[None, :] <= np.arange(S - T, S)[:, None], 0, -np.inf).astype(dtype)


def attention(q, k, v, keep=None, mask=None, *, is_causal=False, dropout_p=0.0, scale=None):
    scores = (q * _scale(scale, q)) @ k.swapaxes(-1, -2)  # (..., T, S)
    if is_causal:
        scores += _causal_bias(*scores.shape[-2:], scores.dtype)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    if not np.isfinite(top).all():
        top[top == -np.inf] = 0  # a row that may attend to nothing
    scores -= top
    weights = np.exp(scores, out=scores)
    total = sum_columns(weights)
    total[total == 0] = 1
    weights /= total
    return _dropped(weights, keep, dropout_p) @ v, {"weights": weights}


def attention_vjp(g, needs, q, k, v, keep, mask_shape, dropout_p, scale, weights):
    """With P the weights: dv = P^T g; dP = g v^T; dscores = P (dP - sum(dP P)); dq = dscores k, dk = dscores^T q."""
    dv = unbroadcast(_dropped(weights, keep, dropout_p).swapaxes(-1, -2) @ g, v.shape) if needs[2] else None
    ds = _dropped(g @ v.swapaxes(-1, -2), keep, dropout_p)
    ds -= np.vecdot(ds, weights)[..., None]
    ds *= weights
    dmask = unbroadcast(ds, mask_shape) if needs[4] else None
    scale = _scale(scale, q)
    dq = unbroadcast((ds @ k) * scale, q.shape) if needs[0] else None
    dk = unbroadcast(ds.swapaxes(-1, -2) @ (q * scale), k.shape) if needs[1] else None
    return dq, dk, dv, None, dmask


def _scale(scale, q):
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def _dropped(weights, keep, p):
    return weights if keep is None else weights * (keep * weights.dtype.type(1 / (1 - p) if p < 1 else 0))


# ----- cross_entropy ----------------------------------------------------------------------------------------------


def serves_cross_entropy(logits, targets, *, reduction="mean", label_smoothing=0.0, weight=None, **_) -> bool:
    usual = targets.dtype.kind in "iu" and reduction in ("mean", "sum") and not label_smoothing and weight is None
    return serves(logits) and usual


def cross_entropy(logits, targets, *, ignore_index=-100, reduction="mean", label_smoothing=0.0, weight=None):
    check_cross_entropy(logits, targets, ignore_index, reduction, label_smoothing, weight)
    x, t = _rows(logits), targets.reshape(-1)
    valid = t != ignore_index
    t = np.where(valid, t, 0)
    rows = np.arange(len(t))
    top = x.max(axis=-1, keepdims=True)
    top[top == -np.inf] = 0
    p = x - top
    picked = p[rows, t]
    np.exp(p, out=p)
    total = sum_columns(p)
    losses = np.log(total[:, 0]) - picked
    p /= total
    count = valid.sum() if reduction == "mean" else 1
    loss = np.where(valid, losses, 0).sum()
    loss = loss / loss.dtype.type(count)
    scale = valid.astype(p.dtype)[:, None]
    if count:
        scale /= scale.dtype.type(count)
    return loss, {"p": p, "scale": scale, "rows": rows, "classes": t}


def cross_entropy_vjp(g, needs, logits_shape, p, scale, rows, classes):
    """(softmax(logits) - onehot(target)) / count, and 0 where the target is ignored."""
    scale = scale * g
    out = p * scale
    out[rows, classes] -= scale[:, 0]
    return out.reshape(logits_shape), None  # (N, C) -> (..., C)
