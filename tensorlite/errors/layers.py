"""Checks of what layers, attention and losses are given, for the formulas and for their kernels.

Each raises one sentence that names the function and says what is expected. They take arrays, not Tensors: `shape`,
`dtype` and, on a CPU, the values of indices are all that they look at.
"""

import math
from numbers import Real
from typing import Any

from ..backend import Array, device_of, is_floating


def check_reduction(name: str, reduction: Any) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction must be 'mean', 'sum' or 'none', not {reduction!r:.80}")


def check_probability(name: str, p: Any) -> None:
    if not isinstance(p, Real) or not 0 <= p <= 1:  # type: ignore[operator]
        raise ValueError(f"{name}: p must be a probability between 0 and 1, not {p!r:.80}")


def check_same_shape(name: str, x: Any, y: Any) -> None:
    for each in (x, y):
        if isinstance(each, (list, tuple)):
            raise TypeError(f"{name}: give Tensors, not a {type(each).__name__}: write tl.tensor(...)")
    a, b = getattr(x, "shape", ()), getattr(y, "shape", ())
    if a != b:
        fix = f"y.reshape({a})" if math.prod(a) == math.prod(b) else f"y.broadcast_to({a}) if that is meant"
        raise ValueError(f"{name}: x has shape {a} and y {b}, but they must be equal: write {fix}")


def check_last_axis(name: str, x: Array, *vectors: Array | None) -> None:
    for vector in vectors:
        if vector is not None and vector.shape != x.shape[-1:]:
            raise ValueError(
                f"{name}: weight and bias must have shape {x.shape[-1:]}, the last axis of x, not {vector.shape}"
            )


def check_table(name: str, weight: Array) -> None:
    if weight.ndim != 2:
        raise ValueError(f"{name}: weight must have shape (V, D), one row for each index, not {weight.shape}")


def check_linear(weight: Array) -> None:
    if weight.ndim != 2:
        raise ValueError(f"linear: weight must have shape (n_out, n_in), not {weight.shape}")


def check_mask(name: str, mask: Array | None) -> None:
    """Attention masks are boolean or floating: TypeError for integers, which would be added to the scores."""
    if mask is not None and mask.dtype != bool and not is_floating(mask.dtype):
        raise TypeError(
            f"{name}: the mask must be boolean (True: may attend) or floating (added to the scores), not {mask.dtype}: "
            "of a mask of 0 and 1 make mask == 1"
        )


def check_attention(q: Array, k: Array, v: Array) -> None:
    a, b, c = q.shape, k.shape, v.shape
    if len(a) < 2 or len(b) < 2 or len(c) < 2 or a[-1] != b[-1] or b[-2] != c[-2]:
        raise ValueError(
            "scaled_dot_product_attention: q (..., T, D), k (..., S, D) and v (..., S, E) are wanted, not shapes "
            f"{a}, {b}, {c}"
        )


def check_heads(qkv: Array, n_head: int) -> None:
    if qkv.ndim != 3 or n_head < 1 or qkv.shape[2] % (3 * n_head):
        raise ValueError(f"multi_head_attention: (B, T, 3 * n_head * D) is wanted, not {qkv.shape} for n_head {n_head}")


def check_indices(name: str, idx: Array, size: int, ignore_index: int | None = None) -> None:
    """TypeError unless `idx` holds integers; IndexError for the first that is not in 0 .. size - 1 nor `ignore_index`.

    The values are checked on the CPU only: anywhere else that would be a wait for the device at each step.
    """
    if idx.dtype.kind not in "iu":
        raise TypeError(f"{name}: indices must be integers, not {idx.dtype}")
    if device_of(idx) != "cpu":
        return
    wrong = idx.view(idx.dtype.str.replace("i", "u")) >= size  # without a sign, a negative index is a large number
    if ignore_index is not None:
        wrong &= idx != ignore_index
    if wrong.any():
        first = idx[wrong][0]
        allowed = "" if ignore_index is None else f" (or ignore_index {ignore_index})"
        raise IndexError(f"{name}: index {first} is out of range: there are {size} classes, 0 to {size - 1}{allowed}")


def check_nll_loss(
    shape: tuple[int, ...], targets: Array, ignore_index: int, reduction: Any, weight: Array | None = None
) -> None:
    """ValueError, TypeError or IndexError for targets and options that do not fit log-probabilities of this shape."""
    check_reduction("nll_loss", reduction)
    if weight is not None and weight.shape != shape[-1:]:
        raise ValueError(f"nll_loss: weight must have one value per class, {shape[-1:]}, not {weight.shape}")
    if targets.shape != shape[:-1]:
        raise ValueError(f"nll_loss: class indices for log_p {shape} must have shape {shape[:-1]}, not {targets.shape}")
    check_indices("nll_loss", targets, shape[-1], ignore_index)


def check_cross_entropy(
    shape: tuple[int, ...],
    targets: Array,
    ignore_index: int,
    reduction: Any,
    label_smoothing: float = 0.0,
    weight: Array | None = None,
) -> None:
    """ValueError, TypeError or IndexError for targets and options that do not fit logits of this shape."""
    check_reduction("cross_entropy", reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be between 0 and 1, not {label_smoothing}")
    if weight is not None and weight.shape != shape[-1:]:
        raise ValueError(f"cross_entropy: weight must have one value per class, {shape[-1:]}, not {weight.shape}")
    expected = shape if is_floating(targets.dtype) else shape[:-1]
    if targets.shape != expected:
        kind = "probabilities" if is_floating(targets.dtype) else "class indices"
        raise ValueError(f"cross_entropy: {kind} for logits {shape} must have shape {expected}, not {targets.shape}")
    if not is_floating(targets.dtype):
        check_indices("cross_entropy", targets, shape[-1], ignore_index)
