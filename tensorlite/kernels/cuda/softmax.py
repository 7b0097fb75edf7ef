"""The masked softmax of attention, in place over its scores, and its derivative in place over the incoming gradient.

One idea: where a GPU has no kernel for the whole of attention, two products with this between them are it. Scores are
as many as T x S for each head, so they are read twice and written once, and no mask is ever as large as they are.
"""

import numpy as np

from ...backend import Array, xp
from .launch import ctype, launch
from .losses import threads_for, width

FILE = "softmax.cu"
STRIDES = np.dtype([(axis, np.int64) for axis in "bhts"])
MASKS = {"bool": "bool", "float32": "float", "bfloat16": "bf16"}

_DTYPES = (("float", (1, 4)), ("bf16", (1, 8)))
INSTANTIATIONS = (  # of softmax.cu: all that is launched
    *[f"masked_softmax<{T}, {M}, {n}>" for T, widths in _DTYPES for M in MASKS.values() for n in widths],
    *[f"masked_softmax_backward<{T}, {n}>" for T, widths in _DTYPES for n in widths],
)


def masked_softmax(
    scores: Array, *, scale: float, is_causal: bool, mask: Array | None = None, keep: Array | None = None,
    dropout_p: float = 0.0,
) -> tuple[Array, Array]:  # fmt: skip
    """scores (B, H, T, S), float32 or bfloat16, become softmax(scale scores + mask): (weights, weights after dropout).

    `is_causal`: position t of the last T of S sees the positions up to its own. `mask`, broadcast to the scores, is
    boolean, True = may attend, or floating and added. A row that may attend to nothing is 0. `keep`: bool, of the shape
    of the scores; without it the two results are one array.
    """
    _check("masked_softmax", scores, keep)
    _, H, T, S = scores.shape
    strides, name = np.zeros((), STRIDES), "bool"
    if mask is not None:
        if mask.dtype.name not in MASKS:
            raise TypeError(f"masked_softmax: a mask must be bool, float32 or bfloat16, not {mask.dtype}: use astype")
        mask = xp(scores).broadcast_to(mask, scores.shape)
        strides[()] = tuple([s // mask.itemsize for s in mask.strides])
        name = MASKS[mask.dtype.name]
    dropped = scores if keep is None else xp(scores).empty(scores.shape, scores.dtype)
    n = width(S, scores)
    args = (
        scores,
        mask,
        strides,
        keep,
        None if keep is None else dropped,
        H,
        T,
        S,
        bool(is_causal),
        float(scale),
        _gain(dropout_p),
    )
    kernel = f"masked_softmax<{ctype(scores)}, {name}, {n}>"
    launch(FILE, kernel, _rows(scores), threads_for(-(-S // n), 256), *args)
    return scores, dropped


def masked_softmax_vjp(
    dweights: Array, weights: Array, *, scale: float, keep: Array | None = None, dropout_p: float = 0.0
) -> Array:
    """dweights, the gradient by the weights after dropout, becomes that by the scores:
    scale weights (d - sum(d weights)), with d = dweights / (1 - dropout_p) where they were kept and 0 elsewhere.
    """
    _check("masked_softmax_vjp", dweights, keep)
    _check("masked_softmax_vjp", weights, keep)
    S = weights.shape[-1]
    n = width(S, dweights, weights)
    args = dweights, weights, keep, S, float(scale), _gain(dropout_p)
    kernel = f"masked_softmax_backward<{ctype(weights)}, {n}>"
    launch(FILE, kernel, _rows(weights), threads_for(-(-S // n), 256), *args)
    return dweights


def _rows(scores: Array) -> int:
    B, H, T, S = scores.shape
    return B * H * T if S else 0


def _gain(p: float) -> float:
    return 1 / (1 - p) if p < 1 else 0.0


def _check(name: str, scores: Array, keep: Array | None) -> None:
    if scores.ndim != 4 or not scores.flags.c_contiguous or scores.dtype.name not in ("float32", "bfloat16"):
        raise ValueError(
            f"{name}: scores must be (B, H, T, S), float32 or bfloat16 and contiguous, not {scores.dtype} of shape "
            f"{scores.shape} with strides {scores.strides}"
        )
    if keep is not None and (keep.shape != scores.shape or keep.dtype != bool or not keep.flags.c_contiguous):
        raise ValueError(
            f"{name}: keep must be bool, contiguous, of shape {scores.shape}, not {keep.dtype}{keep.shape}"
        )
