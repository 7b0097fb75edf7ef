"""cross_entropy, and the same with the model's head in it: one kernel reads a row of logits and leaves its gradient.

One idea: nothing is kept that need not be. cross_entropy keeps the largest logit and the sum of each row, and computes
the softmax again when the gradient is asked for. linear_cross_entropy owns its logits, which are the largest array of a
training step, and writes their gradient over them at once; only the incoming gradient, one number, is still missing
then, and multiplies the two products.

A target that is neither a class nor `ignore_index` gives a loss of nan: values are not checked, which would wait.
"""

import math

import numpy as np

from ...backend import Array, bfloat16, xp
from ...errors.layers import check_cross_entropy
from ..precision import matmul_dtype
from . import blas
from .launch import ctype, launch, on_gpu

PADDED = 128  # a multiple of so many classes: rows of logits start at what the fastest products want
FLOATS = ("float32", "bfloat16")

INSTANTIATIONS = (  # of losses.cu: all that is launched
    *[
        f"cross_entropy_{kernel}<{T}, {index}, {n}>"
        for kernel in ("forward", "backward", "in_place")
        for T, width in (("float", 4), ("bf16", 8))
        for index in ("int", "long long")
        for n in (1, width)
    ],
    *[f"count_valid<{index}>" for index in ("int", "long long")],
    "sum_losses",
    *[f"pad<{T}, {n}>" for T in ("float, float", "float, bf16") for n in (1, 4)],
)


# ----- rows -------------------------------------------------------------------------------------------------------


def as_rows(x: Array) -> Array:
    """(..., C) -> (N, C), row after row in memory: a copy where it is not so."""
    return xp(x).ascontiguousarray(x.reshape((math.prod(x.shape[:-1]), x.shape[-1])))


def address(x: Array) -> int:
    return x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr


def width(columns: int, *arrays: Array) -> int:
    """How many elements of rows of so many columns each thread may read at once: 16 bytes of the narrowest, or 1."""
    n = 16 // min(x.itemsize for x in arrays)
    aligned = columns % n == 0 and all(address(x) % 16 == 0 for x in arrays)
    return n if aligned else 1


def threads_for(packs: int, most: int = 1024) -> int:
    """Threads for a row of so many packs: whole warps, a few packs each where there are many."""
    return min(most, max(32, -(-packs // 128) * 32))


def indices(x: Array) -> Array:
    """Integers of any shape as an array (N) that kernels read: int32 or int64."""
    x = x if x.dtype.name in ("int32", "int64") else x.astype("int64")
    return xp(x).ascontiguousarray(x.reshape(-1))


# ----- cross_entropy ----------------------------------------------------------------------------------------------


def supports_cross_entropy(logits, targets, *, reduction="mean", label_smoothing=0.0, weight=None, **_) -> bool:
    usual = reduction in ("mean", "sum") and not label_smoothing and weight is None
    return usual and _serves(logits) and _serves_targets(targets)


def _serves(x) -> bool:
    return on_gpu(x) and x.dtype.name in FLOATS and x.ndim > 0 and 0 < x.shape[-1] < 2**31


def _serves_targets(targets) -> bool:
    return on_gpu(targets) and targets.dtype.kind in "iu"


def cross_entropy(logits, targets, *, ignore_index=-100, reduction="mean", label_smoothing=0.0, weight=None):
    """logits (..., V) float32 or bfloat16, targets (...) -> the loss, float32 (). Keeps float32 (N) twice."""
    check_cross_entropy(logits.shape, targets, ignore_index, reduction, label_smoothing, weight)
    rows, classes = as_rows(logits), indices(targets)
    N, V = rows.shape
    losses, tops, totals = xp(rows).empty((3, N), "float32")
    kernel, threads = _kernel("cross_entropy_forward", rows, classes, V)
    launch("losses.cu", kernel, N, threads, rows, classes, losses, tops, totals, V, ignore_index)
    count = _count(classes, ignore_index) if reduction == "mean" else None
    return _total(losses, count), {"classes": classes, "tops": tops, "totals": totals, "count": count}


def cross_entropy_vjp(g, needs, logits, ignore_index, classes, tops, totals, count):
    """g (softmax(logits) - onehot(target)) / count, and 0 where the target is ignored."""
    rows = as_rows(logits)
    out = xp(rows).empty(rows.shape, rows.dtype)
    kernel, threads = _kernel("cross_entropy_backward", rows, classes, rows.shape[1])
    args = rows, classes, tops, totals, count, g, out, rows.shape[1], ignore_index
    launch("losses.cu", kernel, len(rows), threads, *args)
    return out.reshape(logits.shape), None  # (N, V) -> (..., V)


def _kernel(name: str, rows: Array, classes: Array, V: int) -> tuple[str, int]:
    n = width(rows.shape[1], rows)
    return f"{name}<{ctype(rows)}, {ctype(classes)}, {n}>", threads_for(-(-V // n))


def _count(classes: Array, ignore_index: int) -> Array:
    count = xp(classes).empty(1, "float32")
    launch("losses.cu", f"count_valid<{ctype(classes)}>", 1, 1024, classes, count, len(classes), ignore_index)
    return count


def _total(losses: Array, count: Array | None) -> Array:
    loss = xp(losses).empty((), "float32")
    launch("losses.cu", "sum_losses", 1, 1024, losses, count, loss, len(losses))
    return loss


# ----- linear_cross_entropy ---------------------------------------------------------------------------------------


def supports_linear_cross_entropy(x, weight, targets, *, reduction="mean", **_) -> bool:
    usual = reduction in ("mean", "sum") and on_gpu(weight) and weight.ndim == 2 and weight.dtype.name == "float32"
    return usual and _serves(x) and 0 < weight.shape[0] < 2**31 and _serves_targets(targets)


def linear_cross_entropy(x, weight, targets, *, ignore_index=-100, reduction="mean"):
    """x (..., C), weight (V, C) float32, targets (...) -> the loss, float32 ().

    Keeps the gradient by the logits (N, P), P = V rounded up, in the dtype of the products, and their operands.
    """
    check_cross_entropy((*x.shape[:-1], len(weight)), targets, ignore_index, reduction)
    rows, classes = as_rows(x), indices(targets)
    bf16 = x.dtype.name == "bfloat16" or matmul_dtype() == "bfloat16"
    N, V, dtype = len(rows), len(weight), bfloat16() if bf16 else x.dtype
    rows = rows.astype(dtype, copy=False)
    padded = V if V % 8 == 0 and not bf16 else -(-V // PADDED) * PADDED
    head = weight if padded == V and not bf16 else _pad(weight, padded, dtype)
    dlogits = blas.matmul(rows, head.T)  # the logits, until the kernel below has read them
    count = _count(classes, ignore_index) if reduction == "mean" else None
    losses = xp(rows).empty(N, "float32")
    kernel, threads = _kernel("cross_entropy_in_place", dlogits, classes, V)
    launch("losses.cu", kernel, N, threads, dlogits, classes, losses, count, V, padded, ignore_index)
    return _total(losses, count), {"dlogits": dlogits, "features": rows, "head": head}


def linear_cross_entropy_vjp(g, needs, x, weight, dlogits, features, head):
    """dx = g dlogits W, dW = g dlogits^T x: rows of zeros, where W was padded, are left out of dW."""
    dx = dweight = None
    if needs[0]:
        dx = blas.matmul(dlogits, head, out_dtype=x.dtype, alpha=g).reshape(x.shape)  # (N, C) -> (..., C)
    if needs[1]:
        dweight = blas.matmul(dlogits.T, features, out_dtype=weight.dtype, alpha=g)[: len(weight)]
    return dx, dweight, None


def _pad(weight: Array, padded: int, dtype: np.dtype) -> Array:
    """(V, C) float32 -> (padded, C) of `dtype`, with rows of zeros at the end."""
    weight = xp(weight).ascontiguousarray(weight)
    out = xp(weight).empty((padded, weight.shape[1]), dtype)
    n = 4 if weight.shape[1] % 4 == 0 and address(weight) % 16 == 0 else 1
    kernel = f"pad<float, {ctype(out)}, {n}>"
    launch("losses.cu", kernel, -(-out.size // (256 * n)), 256, weight, out, weight.size, out.size)
    return out
