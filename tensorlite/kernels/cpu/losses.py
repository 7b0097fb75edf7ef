"""cross_entropy, and linear_cross_entropy: a model's head and its loss together, some classes at a time."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...devices.machine import in_parts
from ...devices.memory import scratch
from ...errors.layers import check_cross_entropy
from .. import shared
from ..shared import Gradients, Residuals
from . import blocks, onednn
from .blocks import as_rows, supports
from .choose_impl import choose_impl
from .numpy_impl import sum_columns

MIN_CLASSES = 64  # computed together in linear_cross_entropy: BLAS is slow for narrower products


# ----- cross_entropy ----------------------------------------------------------------------------------------------


def supports_cross_entropy(
    logits: np.ndarray, targets: np.ndarray, *, reduction: str = "mean", label_smoothing: float = 0.0,
    weight: np.ndarray | None = None, **_: Any,
) -> bool:  # fmt: skip
    """float32 or float64 logits, class indices as targets, reduced to one number, without smoothing and weights."""
    usual = shared.is_plain_cross_entropy(reduction, label_smoothing, weight)
    return usual and supports(logits, targets) and targets.dtype.kind in "iu"


def cross_entropy(
    logits: np.ndarray, targets: np.ndarray, *, ignore_index: int = -100, reduction: str = "mean",
    label_smoothing: float = 0.0, weight: np.ndarray | None = None,
) -> tuple[Any, Residuals]:  # fmt: skip
    """-log softmax(logits)[target], summed over the targets that are not `ignore_index`, divided by their number for
    "mean". logits (..., C), integer targets (...) -> a NumPy scalar.

    Residuals, for N targets: p = softmax(logits) (N, C), `scale` (N, 1), the weight of each target in the loss,
    `rows` = 0 .. N - 1, and `classes` (N), the targets with 0 for ignored ones.
    """
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


def cross_entropy_vjp(
    g: np.ndarray, needs_grad: Sequence[bool], logits_shape: tuple[int, ...], p: np.ndarray, scale: np.ndarray,
    rows: np.ndarray, classes: np.ndarray,
) -> Gradients:  # fmt: skip
    """dlogits = g scale (softmax(logits) - onehot(target)), and 0 where the target is ignored."""
    scale = scale * g
    out = p * scale
    out[rows, classes] -= scale[:, 0]
    return out.reshape(logits_shape), None  # (N, C) -> (..., C)


# ----- linear_cross_entropy ---------------------------------------------------------------------------------------


def supports_linear_cross_entropy(
    x: np.ndarray, weight: np.ndarray, targets: np.ndarray, *, reduction: str = "mean", **_: Any
) -> bool:
    """float32 or float64 alone, weight (V, C), class indices as targets, reduced to one number."""
    usual = weight.ndim == 2 and shared.is_plain_cross_entropy(reduction)
    return usual and supports(x, weight, targets) and targets.dtype.kind in "iu"


def _class_slices(N: int, V: int) -> list[slice]:
    """0 .. V - 1 in slices: the logits of N rows for one of them fit a core's cache. At least two, for two threads."""
    step = max(MIN_CLASSES, 2 * blocks.BLOCK // max(1, N))
    if step >= V and V >= 2 * MIN_CLASSES:
        step = -(-V // 2)
    return [slice(v, min(v + step, V)) for v in range(0, V, step)]


def linear_cross_entropy(
    x: np.ndarray, weight: np.ndarray, targets: np.ndarray, *, ignore_index: int = -100, reduction: str = "mean"
) -> tuple[Any, Residuals]:
    """cross_entropy(x W^T, targets) without an array of all logits: x (..., C), weight (V, C), targets (...).

    Some classes at a time: their logits are replaced by exp(logit - the largest among them of the row), and
    log(sum(exp)) over all classes is put together from the largest logits and the sums of the slices. Residuals, for N
    targets that are not ignored: `exps`, those exponentials, flat, slice after slice; `shares` (slices, N, 1), which
    make softmax of them: softmax = exps * shares; `valid`, which targets are not ignored; `scale`, 1 or 1 / N.
    """
    check_cross_entropy((*x.shape[:-1], len(weight)), targets, ignore_index, reduction)
    rows, targets = as_rows(x), targets.reshape(-1)
    valid = targets != ignore_index
    if not valid.all():
        rows, targets = rows[valid], targets[valid]
    N, V = len(targets), len(weight)
    slices = _class_slices(N, V)
    matmul, operand = onednn.choose_matmul(rows, weight.T)
    features = operand(rows)
    exps, picked = np.empty(N * V, x.dtype), np.empty(N, x.dtype)
    tops, sums = np.empty((2, len(slices), N, 1), x.dtype)  # of each slice

    def forward(which: slice) -> None:
        for part, top, total in zip(slices[which], tops[which], sums[which], strict=True):
            e = exps[N * part.start : N * part.stop].reshape((N, part.stop - part.start))  # (N * P) -> (N, P)
            matmul(features, operand(weight[part]).T, out=e)
            mine = np.flatnonzero((targets >= part.start) & (targets < part.stop))
            picked[mine] = e[mine, targets[mine] - part.start]
            choose_impl(e).exp_minus_max(e, top, total)

    in_parts(forward, len(slices), N * V * (2 + x.shape[-1] / 100))
    top = tops.max(axis=0)
    log_total = top + np.log((sums * np.exp(tops - top)).sum(axis=0))  # (N, 1)
    scale = x.dtype.type(1 if reduction == "sum" else 1 / N if N else np.nan)
    loss = (log_total[:, 0] - picked).sum() * scale
    return loss, {"exps": exps, "shares": np.exp(tops - log_total), "valid": valid, "scale": scale}


def linear_cross_entropy_vjp(
    g: np.ndarray, needs_grad: Sequence[bool], x: np.ndarray, weight: np.ndarray, targets: np.ndarray,
    exps: np.ndarray, shares: np.ndarray, valid: np.ndarray, scale: np.ndarray,
) -> Gradients:  # fmt: skip
    """With d = g scale (softmax - onehot(target)), the gradient of the logits: dx = d W, dW = d^T x.

    d is formed for some classes at a time, in memory that the next ones overwrite.
    """
    rows, targets = as_rows(x), targets.reshape(-1)
    every = valid.all()
    if not every:
        rows, targets = rows[valid], targets[valid]
    N, scale = len(rows), scale * g
    slices = _class_slices(N, len(weight))
    matmul, operand = onednn.choose_matmul(rows, weight.T)
    features = operand(rows)
    dweight = np.empty(weight.shape, x.dtype) if needs_grad[1] else None

    def backward(which: slice) -> np.ndarray | None:
        dx = np.zeros(rows.shape, x.dtype) if needs_grad[0] else None
        for part, share in zip(slices[which], shares[which], strict=True):
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

    dxs = in_parts(backward, len(slices), N * len(weight) * (1 + x.shape[-1] / 50))
    if not needs_grad[0]:
        return None, dweight, None
    dx = functools.reduce(np.add, dxs)
    if not every:
        dx, some = np.zeros((len(valid), x.shape[-1]), x.dtype), dx
        dx[valid] = some
    return dx.reshape(x.shape), dweight, None  # (N, C) -> (..., C)
