"""The masked softmax of attention, in place over its scores, and its derivative in place over the incoming gradient.

Where no kernel computes the whole of attention (sdpa.py), it is two matrix products with this softmax between them.
There are T x S scores for each head, so the kernel reads them twice and writes them once, and a mask is broadcast by
its strides, never expanded to their shape.
"""

import numpy as np

from ...backend import Array, xp
from ..shared import dropout_scale
from .launch import FLOATS, INSTANTIATED_WIDTHS, ceil_div, ctype, launch, threads_for, width

FILE = "softmax.cu"
STRIDES = np.dtype([(axis, np.int64) for axis in "bhts"])  # of a mask: the structure Strides of softmax.cu
MASKS = {"bool": "bool", "float32": "float", "bfloat16": "bf16"}

INSTANTIATIONS = (
    *[f"masked_softmax<{t}, {m}, {n}>" for t, n in INSTANTIATED_WIDTHS for m in MASKS.values()],
    *[f"masked_softmax_backward<{t}, {n}>" for t, n in INSTANTIATED_WIDTHS],
)


def masked_softmax(
    scores: Array, *, scale: float, is_causal: bool, mask: Array | None = None, keep: Array | None = None,
    dropout_p: float = 0.0,
) -> tuple[Array, Array]:  # fmt: skip
    """Overwrite scores (B, H, T, S), float32 or bfloat16 and contiguous, with softmax(scale scores + mask) over S.

    Returns the weights, which are `scores`, and the weights after dropout: weights keep / (1 - dropout_p), with `keep`
    booleans of the shape of the scores; the same array without `keep`. `is_causal`: query t, the t-th of the last T of
    S positions, sees the positions up to its own. `mask`, broadcast to the scores, is boolean, True = may attend, or
    floating and added. A row that may attend to nothing becomes 0. TypeError for a mask of another dtype, ValueError
    for scores or keep that do not fit.
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
    dropped = None if keep is None else xp(scores).empty(scores.shape, scores.dtype)
    n = width(S, scores)
    launch(
        FILE, f"masked_softmax<{ctype(scores)}, {name}, {n}>", _rows(scores), threads_for(ceil_div(S, n), 256),
        scores, mask, strides, keep, dropped, H, T, S, bool(is_causal), float(scale), dropout_scale(dropout_p),
    )  # fmt: skip
    return scores, scores if dropped is None else dropped


def masked_softmax_vjp(
    dweights: Array, weights: Array, *, scale: float, keep: Array | None = None, dropout_p: float = 0.0
) -> Array:
    """Overwrite `dweights`, the gradient of the weights after dropout, with that of the scores, and return it.

    With d = dweights keep / (1 - dropout_p): dscores = scale weights (d - sum(d weights over S)). Both arrays are
    (B, H, T, S), of one dtype and contiguous.
    """
    _check("masked_softmax_vjp", dweights, keep)
    _check("masked_softmax_vjp", weights, keep)
    S = weights.shape[-1]
    n = width(S, dweights, weights)
    args = dweights, weights, keep, S, float(scale), dropout_scale(dropout_p)
    kernel = f"masked_softmax_backward<{ctype(weights)}, {n}>"
    launch(FILE, kernel, _rows(weights), threads_for(ceil_div(S, n), 256), *args)
    return dweights


def _rows(scores: Array) -> int:
    B, H, T, S = scores.shape
    return B * H * T if S else 0


def _check(name: str, scores: Array, keep: Array | None) -> None:
    if scores.ndim != 4 or not scores.flags.c_contiguous or scores.dtype.name not in FLOATS:
        raise ValueError(
            f"{name}: scores must be (B, H, T, S), float32 or bfloat16 and contiguous, not {scores.dtype} of shape "
            f"{scores.shape} with strides {scores.strides}"
        )
    if keep is not None and (keep.shape != scores.shape or keep.dtype != bool or not keep.flags.c_contiguous):
        raise ValueError(
            f"{name}: keep must be bool, contiguous, of shape {scores.shape}, not {keep.dtype}{keep.shape}"
        )
