"""Shared by the kernels for CPU and GPU: argument checks, factors, and ops made of another kernel.

A function here that needs a kernel of the device takes it as its first argument; cpu/ and cuda/ fill it in with
`functools.partial`.
"""

import math
from collections.abc import Callable, Sequence

from ..backend import Array
from ..devices.memory import concatenated
from ..formulas import join_heads, split_heads

Gradients = tuple[Array | None, ...]  # one for each argument of an op; None where it is not needed
Residuals = dict[str, Array | None]  # what a kernel returns beside its result, for its derivative

# ----- which calls kernels are written for ------------------------------------------------------------------------


def supports_gelu(supports: Callable[[Array], bool], x: Array, *, approximate: str = "tanh") -> bool:
    """Whether `supports(x)`, the device's check of an array, accepts x, and `approximate` is "tanh"."""
    return approximate == "tanh" and supports(x)


def is_plain_cross_entropy(reduction: str, label_smoothing: float = 0.0, weight: Array | None = None) -> bool:
    """The kernels reduce to one number, and know neither label smoothing nor weights of classes."""
    return reduction in ("mean", "sum") and not label_smoothing and weight is None


# ----- dropout ----------------------------------------------------------------------------------------------------


def dropout_scale(p: float) -> float:
    """1 / (1 - p), which keeps the expected value under a dropout of probability p; 0 where nothing is kept."""
    return 1 / (1 - p) if p < 1 else 0.0


def apply_dropout_mask_vjp(
    apply_dropout_mask: Callable[..., Array], g: Array, needs_grad: Sequence[bool], keep: Array, p: float
) -> Gradients:
    """y = x keep / (1 - p): dx = g keep / (1 - p), which is the forward function applied to g."""
    return apply_dropout_mask(g, keep, p=p), None


# ----- projections: three linear layers of one input --------------------------------------------------------------


def supports_projections(
    supports_linear: Callable[..., bool], x: Array, query: Array, key: Array, value: Array,
    query_bias: Array | None = None, key_bias: Array | None = None, value_bias: Array | None = None,
) -> bool:  # fmt: skip
    """Whether the device's `linear` supports each of the three, and all or none of them have a bias."""
    if (query_bias is None) is not (key_bias is None) or (query_bias is None) is not (value_bias is None):
        return False
    return (
        supports_linear(x, query, query_bias)
        and supports_linear(x, key, key_bias)
        and supports_linear(x, value, value_bias)
    )


def projections(
    linear: Callable[..., Array], x: Array, query: Array, key: Array, value: Array,
    query_bias: Array | None = None, key_bias: Array | None = None, value_bias: Array | None = None,
) -> Array:  # fmt: skip
    """x [Wq; Wk; Wv]^T + [bq, bk, bv]: the device's `linear` on stacked weights, one product instead of three.

    x (..., n_in), weights (n_out, n_in) each -> (..., 3 n_out). The result is what `linear` returns. The weights of a
    MultiHeadAttention are adjacent in memory (nn.make_adjacent), so stacking them usually copies nothing. An optimizer
    with weights and biases in one group puts each bias behind its weight; then they are copied, 2 x 7 MB a layer and
    step for GPT-2's width. The two groups of `optim.decay_groups` keep them adjacent.
    """
    bias = None if query_bias is None else concatenated(query_bias, key_bias, value_bias)
    return linear(x, concatenated(query, key, value), bias)


def stacked_needs(needs_grad: Sequence[bool]) -> tuple[bool, bool, bool]:
    """The gradients that `linear_vjp` must compute for the stacked weights: whether dx, dW and db are needed."""
    return needs_grad[0], any(needs_grad[1:4]), any(needs_grad[4:])


def split_gradients(gradients: Gradients, query: Array, key: Array) -> Gradients:
    """(dx, dW, db) of the stacked `linear` as those of `projections`: dx, three dW, three db, all of them views."""
    dx, *stacked = gradients
    a, b = len(query), len(query) + len(key)
    return dx, *[part for d in stacked for part in ([None] * 3 if d is None else (d[:a], d[a:b], d[b:]))]


# ----- attention --------------------------------------------------------------------------------------------------


def attention_scale(scale: float | None, q: Array) -> float:
    """The factor of the scores q k^T: `scale`, or 1 / sqrt(D) for queries (..., D)."""
    return 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)


def heads_attention(
    attention: Callable[..., tuple[Array, Residuals]], qkv: Array, keep: Array | None = None, *, n_head: int,
    is_causal: bool = False, dropout_p: float = 0.0,
) -> tuple[Array, Residuals]:  # fmt: skip
    """The device's `attention` within each head, (B, T, 3 C) -> (B, T, C), and its residuals.

    Splitting and joining heads are views where `attention` lays its result out as its queries lie in memory.
    """
    q, k, v = split_heads(qkv, n_head)
    out, residuals = attention(q, k, v, keep, is_causal=is_causal, dropout_p=dropout_p)  # (B, H, T, D)
    return join_heads(out), residuals


def split_result(x: Array, n_head: int) -> Array:
    """The result of `heads_attention`, or its gradient, by heads: (B, T, H D) -> (B, H, T, D), a view."""
    return x.reshape((*x.shape[:2], n_head, x.shape[2] // n_head)).swapaxes(1, 2)
