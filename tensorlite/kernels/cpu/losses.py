"""cross_entropy, and the same with the model's head in it, whose logits are never whole."""

import functools

import numpy as np

from ...devices.machine import in_parts
from ...devices.memory import scratch
from ...errors.layers import check_cross_entropy
from . import blocks, onednn
from .blocks import as_rows, supports
from .choose_impl import steps
from .numpy_impl import sum_columns

CLASSES = 64  # at least so many at once in linear_cross_entropy: narrower products waste BLAS


# ----- cross_entropy ----------------------------------------------------------------------------------------------


def supports_cross_entropy(logits, targets, *, reduction="mean", label_smoothing=0.0, weight=None, **_) -> bool:
    usual = reduction in ("mean", "sum") and not label_smoothing and weight is None
    return usual and supports(logits, targets) and targets.dtype.kind in "iu"


def cross_entropy(logits, targets, *, ignore_index=-100, reduction="mean", label_smoothing=0.0, weight=None):
    check_cross_entropy(logits.shape, targets, ignore_index, reduction, label_smoothing, weight)
    x, t = as_rows(logits), targets.reshape(-1)
    valid = t != ignore_index
    t = np.where(valid, t, 0)
    rows = np.arange(len(t))
    top = x.max(axis=-1, keepdims=True)
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


# ----- linear_cross_entropy ---------------------------------------------------------------------------------------


def supports_linear_cross_entropy(x, weight, targets, *, reduction="mean", **_) -> bool:
    usual = weight.ndim == 2 and reduction in ("mean", "sum")
    return usual and supports(x, weight, targets) and targets.dtype.kind in "iu"


def _some_classes(N: int, V: int) -> list[slice]:
    """Slices of the V classes: so many at once that N rows of their logits stay in a core's cache, and two at least."""
    step = max(CLASSES, 2 * blocks.BLOCK // max(1, N))
    if step >= V and V >= 2 * CLASSES:
        step = -(-V // 2)
    return [slice(v, min(v + step, V)) for v in range(0, V, step)]


def linear_cross_entropy(x, weight, targets, *, ignore_index=-100, reduction="mean"):
    """Some classes at a time: of their logits only the exponentials are kept, less each row's maximum among them."""
    check_cross_entropy((*x.shape[:-1], len(weight)), targets, ignore_index, reduction)
    rows, targets = as_rows(x), targets.reshape(-1)
    valid = targets != ignore_index
    if not valid.all():
        rows, targets = rows[valid], targets[valid]
    N, V = len(targets), len(weight)
    parts = _some_classes(N, V)
    matmul, operand = onednn.arithmetic(rows, weight.T)
    features = operand(rows)
    exps, picked = np.empty(N * V, x.dtype), np.empty(N, x.dtype)
    tops, sums = np.empty((2, len(parts), N, 1), x.dtype)  # of each part

    def forward(which: slice) -> None:
        for part, top, total in zip(parts[which], tops[which], sums[which], strict=True):
            e = exps[N * part.start : N * part.stop].reshape((N, part.stop - part.start))  # (N * P) -> (N, P)
            matmul(features, operand(weight[part]).T, out=e)
            mine = np.flatnonzero((targets >= part.start) & (targets < part.stop))
            picked[mine] = e[mine, targets[mine] - part.start]
            steps(e).exponentials(e, top, total)

    in_parts(forward, len(parts), N * V * (2 + x.shape[-1] / 100))
    top = tops.max(axis=0)
    log_total = top + np.log((sums * np.exp(tops - top)).sum(axis=0))  # (N, 1)
    scale = x.dtype.type(1 if reduction == "sum" else 1 / N if N else np.nan)
    loss = (log_total[:, 0] - picked).sum() * scale
    return loss, {"exps": exps, "shares": np.exp(tops - log_total), "valid": valid, "scale": scale}


def linear_cross_entropy_vjp(g, needs, x, weight, targets, exps, shares, valid, scale):
    """Of the logits: (softmax - onehot(target)) scale, some classes at a time; dx and dweight as for `linear`."""
    rows, targets = as_rows(x), targets.reshape(-1)
    every = valid.all()
    if not every:
        rows, targets = rows[valid], targets[valid]
    N, scale = len(rows), scale * g
    parts = _some_classes(N, len(weight))
    matmul, operand = onednn.arithmetic(rows, weight.T)
    features = operand(rows)
    dweight = np.empty(weight.shape, x.dtype) if needs[1] else None

    def backward(which: slice) -> np.ndarray | None:
        dx = np.zeros(rows.shape, x.dtype) if needs[0] else None
        for part, share in zip(parts[which], shares[which], strict=True):
            e = exps[N * part.start : N * part.stop].reshape((N, part.stop - part.start))  # (N * P) -> (N, P)
            d = np.multiply(e, share * scale, out=scratch(0, e.shape, x.dtype))
            mine = np.flatnonzero((targets >= part.start) & (targets < part.stop))
            d[mine, targets[mine] - part.start] -= scale
            d = operand(d)
            if dweight is not None:
                matmul(d.T, features, out=dweight[part])
            if dx is not None:
                dx += matmul(d, operand(weight[part]), out=scratch(1, rows.shape, x.dtype))
        return dx

    dxs = in_parts(backward, len(parts), N * len(weight) * (1 + x.shape[-1] / 50))
    if not needs[0]:
        return None, dweight, None
    dx = functools.reduce(np.add, dxs)
    if not every:
        dx, some = np.zeros((len(valid), x.shape[-1]), x.dtype), dx
        dx[valid] = some
    return dx.reshape(x.shape), dweight, None  # (N, C) -> (..., C)
