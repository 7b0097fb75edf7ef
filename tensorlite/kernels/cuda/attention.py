"""Attention on a GPU: cuDNN where it supports, otherwise two products with a softmax between them.

One idea: what cuDNN computes never has its scores in memory (sdpa.py). It takes bfloat16 without mask or dropout; all
else, and what it declines, goes through scores (B, H, T, S) in float32, which become the weights in place and are kept
for the gradient. `about` says which of the two there is, and what was declined.

Served are float32 and bfloat16, equal leading axes of q, k and v, at most two, and masks of booleans. A mask of
numbers, whose gradient may be wanted, takes the specification.
"""

import math

from ...backend import Array, float32, xp
from ...formulas import join_heads, split_heads
from . import blas, sdpa
from .launch import on_gpu
from .layers import cast
from .softmax import masked_softmax, masked_softmax_vjp

FEWEST = 16  # positions for which cuDNN builds a graph: token by token, the number of keys is another each time


def supports_attention(q, k, v, keep=None, mask=None, *, is_causal=False, dropout_p=0.0, scale=None) -> bool:
    if not all(x is None or on_gpu(x) for x in (q, k, v, keep, mask)):
        return False
    if not q.dtype == k.dtype == v.dtype or q.dtype.name not in blas.TYPES or not 2 <= q.ndim <= 4:
        return False
    return (
        q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
        and k.shape[-2] == v.shape[-2]
        and q.shape[-1] == k.shape[-1]
        and (keep is None or (keep.dtype == bool and keep.shape == (*q.shape[:-1], k.shape[-2])))
        and (mask is None or (mask.dtype == bool and _stretches(mask.shape, (*q.shape[:-1], k.shape[-2]))))
    )


def attention(q, k, v, keep=None, mask=None, *, is_causal=False, dropout_p=0.0, scale=None):
    scale = _scale(scale, q)
    few = q.shape[-2] < FEWEST
    if keep is None and mask is None and not few and not sdpa.why_not(q, k, v, is_causal=is_causal, scale=scale):
        out, stats = sdpa.forward(q, k, v, is_causal=is_causal, scale=scale)
        return out, {"weights": None, "used": None, "stats": stats}
    weights, used = _weights(q, k, keep, mask, is_causal, dropout_p, scale)
    return blas.matmul(used, v), {"weights": weights, "used": used, "stats": None}


def attention_vjp(g, needs, q, k, v, keep, mask_shape, is_causal, dropout_p, scale, out, weights, used, stats):
    """With P the weights: dv = P^T g; dP = g v^T; dscores = P (dP - sum(dP P)); dq = dscores k, dk = dscores^T q."""
    scale = _scale(scale, q)
    if stats is not None:
        into = sdpa.like(q, k, v)
        if _by_cudnn(g, q, k, v, out, stats, into, is_causal, scale):
            return *[x if need else None for x, need in zip(into, needs[:3], strict=True)], None, None
        weights, used = _weights(q, k, None, None, is_causal, 0.0, scale)
    return *_by_products(g, needs, q, k, v, keep, dropout_p, scale, weights, used), None, None


def _by_cudnn(g, q, k, v, out, stats, into, is_causal: bool, scale: float) -> bool:
    """Whether cuDNN takes it, which then has written the gradients `into` three arrays."""
    if sdpa.why_not_backward(g, q, k, v, out, into, is_causal=is_causal, scale=scale):
        return False
    sdpa.backward(g, q, k, v, out, stats, into, is_causal=is_causal, scale=scale)
    return True


def _by_products(g, needs, q, k, v, keep, dropout_p, scale, weights, used) -> tuple:
    """dq, dk and dv from the weights, which become the gradient of the scores."""
    dq = dk = dv = None
    if needs[2]:
        dv = blas.matmul(used.swapaxes(-1, -2), g)
    if needs[0] or needs[1]:
        ds = _four(blas.matmul(g, v.swapaxes(-1, -2), out_dtype=float32))
        ds = masked_softmax_vjp(ds, weights, scale=scale, keep=_kept(keep), dropout_p=dropout_p)
        ds = cast(ds, q.dtype).reshape(used.shape)  # (B, H, T, S) -> (..., T, S)
        dq = blas.matmul(ds, k) if needs[0] else None
        dk = blas.matmul(ds.swapaxes(-1, -2), q) if needs[1] else None
    return dq, dk, dv


def supports_heads(qkv, keep=None, *, n_head, is_causal=False, dropout_p=0.0) -> bool:
    if not on_gpu(qkv):
        return False
    q, k, v = split_heads(qkv, n_head)
    return supports_attention(q, k, v, keep)


def heads_attention(qkv, keep=None, *, n_head, is_causal=False, dropout_p=0.0):
    """cuDNN reads the heads where they lie, and writes the average where the next product reads it."""
    q, k, v = split_heads(qkv, n_head)
    out, kept = attention(q, k, v, keep, is_causal=is_causal, dropout_p=dropout_p)  # (B, H, T, D)
    return join_heads(out), kept


def heads_attention_vjp(g, needs, qkv, keep, n_head, is_causal, dropout_p, out, weights, used, stats):
    q, k, v = split_heads(qkv, n_head)
    dqkv, scale = xp(qkv).empty(qkv.shape, qkv.dtype), _scale(None, q)
    into = split_heads(dqkv, n_head)
    out, g = (x.reshape((*x.shape[:2], n_head, q.shape[-1])).swapaxes(1, 2) for x in (out, g))  # -> (B, H, T, D)
    if stats is not None:
        if _by_cudnn(g, q, k, v, out, stats, into, is_causal, scale):
            return dqkv, None
        weights, used = _weights(q, k, None, None, is_causal, 0.0, scale)
    found = _by_products(g, (True,) * 3, q, k, v, keep, dropout_p, scale, weights, used)
    for part, gradient in zip(into, found, strict=True):
        part[...] = gradient
    return dqkv, None


def _weights(q, k, keep, mask, is_causal: bool, dropout_p: float, scale: float) -> tuple[Array, Array]:
    """The weights (B, H, T, S) in float32, and those after dropout (..., T, S) in the dtype of q."""
    scores = blas.matmul(q, k.swapaxes(-1, -2), out_dtype=float32)  # (..., T, S)
    weights, dropped = masked_softmax(
        _four(scores), scale=scale, is_causal=is_causal, mask=mask, keep=_kept(keep), dropout_p=dropout_p
    )
    return weights, cast(dropped, q.dtype).reshape(scores.shape)  # (B, H, T, S) -> (..., T, S)


def _four(x: Array) -> Array:
    """(..., T, S) -> (B, H, T, S), with new axes where a mask with fewer axes would have them."""
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def _kept(keep: Array | None) -> Array | None:
    return None if keep is None else xp(keep).ascontiguousarray(_four(keep))


def _stretches(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether broadcasting makes `to` of `shape`."""
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))


def _scale(scale, q) -> float:
    return 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)


def about() -> dict[str, str]:
    """Which library multiplies, and which way attention is computed: a sentence each."""
    attention = "cuDNN for bfloat16 without mask or dropout, otherwise products and softmax"
    if sdpa.missing():
        attention = f"products and softmax: {sdpa.missing()}"
    elif sdpa.declined():
        attention = f"{attention}; {'; '.join(sdpa.declined())}"
    products = f"CuPy's, in no CUDA graph: {blas.missing()}" if blas.missing() else f"cublasLt {_version()}"
    return {"products": products, "attention": attention}


def _version() -> str:
    """cublasLt's: 130100 is 13.1.0."""
    version = blas.version()
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"
