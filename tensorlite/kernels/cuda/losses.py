"""cross_entropy, and linear_cross_entropy: a model's head and its loss together; one block for each row of logits.

cross_entropy saves the largest logit of each row and the sum of its exponentials, and the derivative computes the
softmax from them again. linear_cross_entropy owns its logits, the largest array of a training step, and overwrites them
with their gradient for g = 1 at once; the derivative multiplies its two products by g, which is one number.

A target that is neither a class nor `ignore_index` gives a loss of nan: to check values would wait for the GPU.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...backend import Array, bfloat16, xp
from ...errors.layers import check_cross_entropy
from .. import shared
from ..precision import matmul_dtype
from ..shared import Gradients, Residuals
from . import blas
from .launch import (
    FLOATS,
    INDICES,
    INSTANTIATED_WIDTHS,
    as_indices,
    as_rows,
    ceil_div,
    ctype,
    launch,
    on_gpu,
    threads_for,
    width,
)  # fmt: skip

FILE = "losses.cu"
PADDED = 128  # logits have a multiple of so many columns: the alignment of the fastest bfloat16 products

INSTANTIATIONS = (
    *[
        f"cross_entropy_{kernel}<{t}, {index}, {n}>"
        for kernel in ("forward", "backward", "in_place")
        for index in INDICES
        for t, n in INSTANTIATED_WIDTHS
    ],
    *[f"count_valid<{index}>" for index in INDICES],
    "sum_losses",
    *[f"pad<{t}, {n}>" for t in ("float, float", "float, bf16") for n in (1, 4)],
)


# ----- cross_entropy ----------------------------------------------------------------------------------------------


def supports_cross_entropy(
    logits: Array, targets: Array, *, reduction: str = "mean", label_smoothing: float = 0.0,
    weight: Array | None = None, **_: Any,
) -> bool:  # fmt: skip
    """float32 or bfloat16 logits and class indices on a GPU, reduced to one number, without smoothing and weights."""
    usual = shared.is_plain_cross_entropy(reduction, label_smoothing, weight)
    return usual and _has_rows(logits) and _are_classes(targets)


def _has_rows(x: Array) -> bool:
    return on_gpu(x) and x.dtype.name in FLOATS and x.ndim > 0 and 0 < x.shape[-1] < 2**31


def _are_classes(targets: Array) -> bool:
    return on_gpu(targets) and targets.dtype.kind in "iu"


def cross_entropy(
    logits: Array, targets: Array, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0,
    weight: Array | None = None,
) -> tuple[Array, Residuals]:  # fmt: skip
    """-log softmax(logits)[target], summed over the targets that are not `ignore_index`, divided by their number for
    "mean". logits (..., V), integer targets (...) -> float32 ().

    Residuals, for N targets: `classes` (N), the targets; `tops` and `totals`, float32 (N), the largest logit of each
    row and the sum of exp(logit - top); `count`, float32 (1), or None for "sum".
    """
    check_cross_entropy(logits.shape, targets, ignore_index, reduction, label_smoothing, weight)
    rows, classes = as_rows(logits), as_indices(targets)
    N, V = rows.shape
    losses, tops, totals = xp(rows).empty((3, N), "float32")
    kernel, threads = _kernel("cross_entropy_forward", rows, classes, V)
    launch(FILE, kernel, N, threads, rows, classes, losses, tops, totals, V, ignore_index)
    count = _count(classes, ignore_index) if reduction == "mean" else None
    return _sum(losses, count), {"classes": classes, "tops": tops, "totals": totals, "count": count}


def cross_entropy_vjp(
    g: Array, needs_grad: Sequence[bool], logits: Array, ignore_index: int, classes: Array, tops: Array,
    totals: Array, count: Array | None,
) -> Gradients:  # fmt: skip
    """dlogits = g (softmax(logits) - onehot(target)) / count, and 0 where the target is ignored."""
    rows = as_rows(logits)
    out = xp(rows).empty(rows.shape, rows.dtype)
    kernel, threads = _kernel("cross_entropy_backward", rows, classes, rows.shape[1])
    args = rows, classes, tops, totals, count, g, out, rows.shape[1], ignore_index
    launch(FILE, kernel, len(rows), threads, *args)
    return out.reshape(logits.shape), None  # (N, V) -> (..., V)


def _kernel(name: str, rows: Array, classes: Array, V: int) -> tuple[str, int]:
    """The instantiation of a kernel for these arrays, and the threads of a block."""
    n = width(rows.shape[1], rows)
    return f"{name}<{ctype(rows)}, {ctype(classes)}, {n}>", threads_for(ceil_div(V, n))


def _count(classes: Array, ignore_index: int) -> Array:
    """The number of targets that are not ignored: float32 (1)."""
    count = xp(classes).empty(1, "float32")
    launch(FILE, f"count_valid<{ctype(classes)}>", 1, 1024, classes, count, len(classes), ignore_index)
    return count


def _sum(losses: Array, count: Array | None) -> Array:
    """The sum of losses (N), divided by `count` where it is given: float32 ()."""
    loss = xp(losses).empty((), "float32")
    launch(FILE, "sum_losses", 1, 1024, losses, count, loss, len(losses))
    return loss


# ----- linear_cross_entropy ---------------------------------------------------------------------------------------


def supports_linear_cross_entropy(
    x: Array, weight: Array, targets: Array, *, reduction: str = "mean", **_: Any
) -> bool:
    """float32 or bfloat16 x, a float32 weight (V, C), class indices, all on a GPU, reduced to one number."""
    usual = shared.is_plain_cross_entropy(reduction) and on_gpu(weight)
    usual = usual and weight.ndim == 2 and weight.dtype.name == "float32"
    return usual and _has_rows(x) and 0 < weight.shape[0] < 2**31 and _are_classes(targets)


def linear_cross_entropy(
    x: Array, weight: Array, targets: Array, *, ignore_index: int = -100, reduction: str = "mean"
) -> tuple[Array, Residuals]:
    """cross_entropy(x W^T, targets): x (..., C), weight (V, C) float32, targets (...) -> float32 ().

    Residuals, in the dtype of the products: `dlogits` (N, P), the gradient of the logits for g = 1, with P = V rounded
    up and zeros in the last P - V columns; the operands `features` (N, C) and `head` (P, C).
    """
    check_cross_entropy((*x.shape[:-1], len(weight)), targets, ignore_index, reduction)
    rows, classes = as_rows(x), as_indices(targets)
    bf16 = x.dtype.name == "bfloat16" or matmul_dtype() == "bfloat16"
    N, V, dtype = len(rows), len(weight), bfloat16() if bf16 else x.dtype
    rows = rows.astype(dtype, copy=False)
    padded = V if V % 8 == 0 and not bf16 else ceil_div(V, PADDED) * PADDED
    head = weight if padded == V and not bf16 else _pad(weight, padded, dtype)
    dlogits = blas.matmul(rows, head.T)  # the logits, until the kernel below has read them
    count = _count(classes, ignore_index) if reduction == "mean" else None
    losses = xp(rows).empty(N, "float32")
    kernel, threads = _kernel("cross_entropy_in_place", dlogits, classes, V)
    launch(FILE, kernel, N, threads, dlogits, classes, losses, count, V, padded, ignore_index)
    return _sum(losses, count), {"dlogits": dlogits, "features": rows, "head": head}


def linear_cross_entropy_vjp(
    g: Array, needs_grad: Sequence[bool], x: Array, weight: Array, dlogits: Array, features: Array, head: Array
) -> Gradients:
    """dx = g dlogits W, dW = g dlogits^T x, without the rows of zeros with which W was padded."""
    dx = dweight = None
    if needs_grad[0]:
        dx = blas.matmul(dlogits, head, out_dtype=x.dtype, alpha=g).reshape(x.shape)  # (N, C) -> (..., C)
    if needs_grad[1]:
        dweight = blas.matmul(dlogits.T, features, out_dtype=weight.dtype, alpha=g)[: len(weight)]
    return dx, dweight, None


def _pad(weight: Array, padded: int, dtype: np.dtype) -> Array:
    """(V, C) float32 -> (padded, C) of `dtype`, with rows of zeros at the end."""
    weight = xp(weight).ascontiguousarray(weight)
    out = xp(weight).empty((padded, weight.shape[1]), dtype)
    n = width(weight.shape[1], weight)
    kernel = f"pad<float, {ctype(out)}, {n}>"
    launch(FILE, kernel, ceil_div(out.size, 256 * n), 256, weight, out, weight.size, out.size)
    return out
