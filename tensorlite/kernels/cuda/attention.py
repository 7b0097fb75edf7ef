"""Attention on a GPU: by cuDNN where it supports the call, otherwise as two matrix products with a softmax between.

cuDNN (sdpa.py) never has the scores in memory. It takes bfloat16 without mask or dropout. Everything else, and what it
declines, computes scores (B, H, T, S) in float32, which become the weights in place and are saved for the derivative.

Supported are float32 and bfloat16, at most two leading axes, equal in q, k and v, and boolean masks. A floating mask,
whose gradient may be needed, is left to the formula.
"""

from collections.abc import Sequence
from functools import partial

from ...backend import Array, float32, xp
from ...formulas import split_heads
from .. import shared
from ..shared import Gradients, Residuals
from . import blas, sdpa
from .launch import on_gpu
from .layers import cast
from .softmax import masked_softmax, masked_softmax_vjp

MIN_QUERIES = 16  # for cuDNN, which builds a graph for each number of keys: token by token, each is another one


def supports_attention(
    q: Array, k: Array, v: Array, keep: Array | None = None, mask: Array | None = None, *, is_causal: bool = False,
    dropout_p: float = 0.0, scale: float | None = None,
) -> bool:  # fmt: skip
    """On a GPU, q, k and v in one dtype of float32 and bfloat16, leading axes and channels equal, masks boolean."""
    if not all(x is None or on_gpu(x) for x in (q, k, v, keep, mask)):
        return False
    if not q.dtype == k.dtype == v.dtype or q.dtype.name not in blas.TYPES or not 2 <= q.ndim <= 4:
        return False
    scores = (*q.shape[:-1], k.shape[-2])
    return (
        q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
        and k.shape[-2] == v.shape[-2]
        and q.shape[-1] == k.shape[-1]
        and (keep is None or (keep.dtype == bool and keep.shape == scores))
        and (mask is None or (mask.dtype == bool and _broadcasts_to(mask.shape, scores)))
    )


def _broadcasts_to(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(n in (1, m) for n, m in pairs)


def attention(
    q: Array, k: Array, v: Array, keep: Array | None = None, mask: Array | None = None, *, is_causal: bool = False,
    dropout_p: float = 0.0, scale: float | None = None,
) -> tuple[Array, Residuals]:  # fmt: skip
    """softmax(scale q k^T + mask) v, with dropout where `keep` is given: formulas.attention.

    q (..., T, D), k (..., S, D), v (..., S, E) -> (..., T, E); keep (..., T, S), mask broadcast to that. Residuals:
    `stats` of cuDNN, or `weights` (B, H, T, S) float32 and `used` (..., T, S), the weights after dropout in the dtype
    of q; None for those that do not apply.
    """
    scale = shared.attention_scale(scale, q)
    plain = keep is None and mask is None and q.shape[-2] >= MIN_QUERIES
    if plain and not sdpa.why_not(q, k, v, is_causal=is_causal, scale=scale):
        out, stats = sdpa.forward(q, k, v, is_causal=is_causal, scale=scale)
        return out, {"weights": None, "used": None, "stats": stats}
    weights, used = _weights(q, k, keep, mask, is_causal, dropout_p, scale)
    return blas.matmul(used, v), {"weights": weights, "used": used, "stats": None}


def attention_vjp(
    g: Array, needs_grad: Sequence[bool], q: Array, k: Array, v: Array, keep: Array | None,
    mask_shape: tuple[int, ...], is_causal: bool, dropout_p: float, scale: float | None, out: Array,
    weights: Array | None, used: Array | None, stats: Array | None,
) -> Gradients:  # fmt: skip
    """With P the weights, Z = keep / (1 - p) the dropout mask (1 without dropout) and all products elementwise but
    those with ^T or of matrices:

        dv = (P Z)^T g,  dP = (g v^T) Z,  dscores = P (dP - sum(dP P over the keys)),
        dq = scale dscores k,  dk = scale dscores^T q
    """
    factor = shared.attention_scale(scale, q)
    if stats is not None:
        into = sdpa.empty_like(q, k, v)
        if _by_cudnn(g, q, k, v, out, stats, into, is_causal, factor):
            return *[x if need else None for x, need in zip(into, needs_grad[:3], strict=True)], None, None
        weights, used = _weights(q, k, None, None, is_causal, 0.0, factor)
    return *_by_products(g, needs_grad, q, k, v, keep, dropout_p, factor, weights, used), None, None


def _by_cudnn(
    g: Array, q: Array, k: Array, v: Array, out: Array, stats: Array, into: tuple[Array, ...], is_causal: bool,
    scale: float,
) -> bool:  # fmt: skip
    """Let cuDNN write dq, dk and dv into the three arrays `into`. False where it declines, and nothing is written."""
    if sdpa.why_not_backward(g, q, k, v, out, into, is_causal=is_causal, scale=scale):
        return False
    sdpa.backward(g, q, k, v, out, stats, into, is_causal=is_causal, scale=scale)
    return True


def _by_products(
    g: Array, needs_grad: Sequence[bool], q: Array, k: Array, v: Array, keep: Array | None, dropout_p: float,
    scale: float, weights: Array, used: Array,
) -> Gradients:  # fmt: skip
    """dq, dk and dv from the weights before and after dropout."""
    dq = dk = dv = None
    if needs_grad[2]:
        dv = blas.matmul(used.swapaxes(-1, -2), g)
    if needs_grad[0] or needs_grad[1]:
        ds = _as_4d(blas.matmul(g, v.swapaxes(-1, -2), out_dtype=float32))
        ds = masked_softmax_vjp(ds, weights, scale=scale, keep=_contiguous_4d(keep), dropout_p=dropout_p)
        ds = cast(ds, q.dtype).reshape(used.shape)  # (B, H, T, S) -> (..., T, S)
        dq = blas.matmul(ds, k) if needs_grad[0] else None
        dk = blas.matmul(ds.swapaxes(-1, -2), q) if needs_grad[1] else None
    return dq, dk, dv


def _weights(
    q: Array, k: Array, keep: Array | None, mask: Array | None, is_causal: bool, dropout_p: float, scale: float
) -> tuple[Array, Array]:
    """The weights (B, H, T, S) in float32, and those after dropout (..., T, S) in the dtype of q."""
    scores = blas.matmul(q, k.swapaxes(-1, -2), out_dtype=float32)  # (..., T, S)
    keep = _contiguous_4d(keep)
    weights, used = masked_softmax(
        _as_4d(scores), scale=scale, is_causal=is_causal, mask=mask, keep=keep, dropout_p=dropout_p
    )
    return weights, cast(used, q.dtype).reshape(scores.shape)  # (B, H, T, S) -> (..., T, S)


def _as_4d(x: Array) -> Array:
    """(..., T, S) -> (B, H, T, S), with new axes in front, where broadcasting a mask has them too."""
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def _contiguous_4d(keep: Array | None) -> Array | None:
    return None if keep is None else xp(keep).ascontiguousarray(_as_4d(keep))


# ----- attention of packed heads ----------------------------------------------------------------------------------


def supports_heads(
    qkv: Array, keep: Array | None = None, *, n_head: int, is_causal: bool = False, dropout_p: float = 0.0
) -> bool:
    """As `supports_attention` for the queries, keys and values in qkv (B, T, 3 C)."""
    if not on_gpu(qkv):
        return False
    q, k, v = split_heads(qkv, n_head)
    return supports_attention(q, k, v, keep)


heads_attention = partial(shared.heads_attention, attention)


def heads_attention_vjp(
    g: Array, needs_grad: Sequence[bool], qkv: Array, keep: Array | None, n_head: int, is_causal: bool,
    dropout_p: float, out: Array, weights: Array | None, used: Array | None, stats: Array | None,
) -> Gradients:  # fmt: skip
    """dq, dk and dv of `attention_vjp`, written side by side into the gradient of qkv (B, T, 3 C)."""
    q, k, v = split_heads(qkv, n_head)
    dqkv, scale = xp(qkv).empty(qkv.shape, qkv.dtype), shared.attention_scale(None, q)
    into = split_heads(dqkv, n_head)
    out, g = (shared.split_result(x, n_head) for x in (out, g))
    if stats is not None:
        if _by_cudnn(g, q, k, v, out, stats, into, is_causal, scale):
            return dqkv, None
        weights, used = _weights(q, k, None, None, is_causal, 0.0, scale)
    gradients = _by_products(g, (True,) * 3, q, k, v, keep, dropout_p, scale, weights, used)
    for part, gradient in zip(into, gradients, strict=True):
        part[...] = gradient
    return dqkv, None


# ----- what is in use ---------------------------------------------------------------------------------------------


def about() -> dict[str, str]:
    """The libraries for matrix products and attention: one sentence each, as {"products": ..., "attention": ...}."""
    attention = "cuDNN for bfloat16 without mask or dropout, otherwise products and softmax"
    if sdpa.missing():
        attention = f"products and softmax: {sdpa.missing()}"
    elif sdpa.declined():
        attention = f"{attention}; {'; '.join(sdpa.declined())}"
    products = f"CuPy's, in no CUDA graph: {blas.missing()}" if blas.missing() else f"cublasLt {_version()}"
    return {"products": products, "attention": attention}


def _version() -> str:
    """cublasLt's version as text: 130100 is 13.1.0."""
    version = blas.version()
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"
