"""Executable specifications: each function is its formula, made of ops.

Read this file to know what a layer, an attention or a loss computes. functional.py has the same names for use, with
complete docstrings and with kernels for speed. A kernel must agree with the formula here in value and in derivatives of
every order, and the formula computes all arguments that no kernel supports.
"""

import math

from . import derived, ops
from .autograd import Variable
from .backend import Array, int64, integers, is_array, is_floating, xp
from .errors.layers import (
    check_attention,
    check_cross_entropy,
    check_heads,
    check_indices,
    check_last_axis,
    check_linear,
    check_mask,
    check_nll_loss,
    check_probability,
    check_reduction,
    check_same_shape,
    check_table,
)
from .promotion import promote_narrow, promote_to_float
from .random import Generator, stream

__all__ = [
    "apply_dropout_mask", "argmax", "attention", "binary_cross_entropy_with_logits", "cosine_similarity",
    "cross_entropy", "dropout", "elu", "embedding", "gelu", "heads_attention", "join_heads", "keep_mask", "kl_div",
    "layer_norm", "leaky_relu", "linear", "linear_cross_entropy", "log_softmax", "logsigmoid", "mse_loss",
    "multi_head_attention", "nll_loss", "normalize", "one_hot", "projections", "relu", "rms_norm",
    "scaled_dot_product_attention", "silu", "softmax", "softplus", "split_heads",
]  # fmt: skip

# ----- activations ------------------------------------------------------------------------------------------------


def relu(x: Array) -> Array:
    """max(x, 0), with derivative 0 at 0."""
    return ops.where(x <= 0, 0, x)  # this way around, nan stays nan


@promote_to_float
def gelu(x: Array, *, approximate: str = "tanh") -> Array:
    """x Phi(x), with the normal distribution's Phi or, "tanh", an approximation of it."""
    if approximate == "none":
        return 0.5 * x * (1 + ops.erf(x / math.sqrt(2)))
    if approximate != "tanh":
        raise ValueError(f"gelu: approximate must be 'tanh' or 'none', not {approximate!r:.80}")
    return 0.5 * x * (1 + ops.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


@promote_to_float
def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    return x * ops.sigmoid(x)


def softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    return ops.softplus(x)


def logsigmoid(x: Array) -> Array:
    """log(1 / (1 + exp(-x))), without the log of a number that rounds to 0."""
    return -ops.softplus(-x)


@promote_to_float
def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """x, or negative_slope x where x <= 0."""
    return ops.where(x <= 0, x * negative_slope, x)


@promote_to_float
def elu(x: Array, alpha: float = 1.0) -> Array:
    """x, or alpha (exp(x) - 1) where x <= 0."""
    negative = ops.where(x > 0, 0, x)  # exp of a large x would overflow, although it is not chosen
    return ops.where(x <= 0, alpha * ops.expm1(negative), x)


# ----- softmax ----------------------------------------------------------------------------------------------------


@promote_to_float
def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x_i) / sum_j exp(x_j) along `axis`. The shift by the maximum cancels; it only keeps exp from overflowing."""
    e = ops.exp(x - ops.detach(x).max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@promote_to_float
def log_softmax(x: Array, axis: int = -1) -> Array:
    """log(softmax(x)), without the log of a number that rounds to 0."""
    x = x - ops.detach(x).max(axis=axis, keepdims=True)  # as in softmax
    return x - ops.logsumexp(x, axis=axis, keepdims=True)


def argmax(x: Array) -> Array:
    """The index of the largest element along the last axis."""
    return ops.argmax(x, axis=-1)


# ----- layers -----------------------------------------------------------------------------------------------------


@promote_narrow
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x W^T + b: x (..., n_in), weight (n_out, n_in), bias (n_out) -> (..., n_out)."""
    check_linear(weight)
    y = ops.matmul(x, weight.swapaxes(0, 1))
    return y if bias is None else y + bias


@promote_narrow
def projections(
    x: Array,
    query: Array,
    key: Array,
    value: Array,
    query_bias: Array | None = None,
    key_bias: Array | None = None,
    value_bias: Array | None = None,
) -> Array:
    """Three `linear`s of one x, side by side: x (..., n_in), weights (n_out, n_in) each -> (..., 3 n_out)."""
    parts = (query, query_bias), (key, key_bias), (value, value_bias)
    return ops.concatenate([linear(x, weight, bias) for weight, bias in parts], axis=-1)


def embedding(weight: Array, idx: Array) -> Array:
    """weight[idx]: rows of a table (V, D) at the integers idx (...) -> (..., D)."""
    idx = _as_indices("embedding", idx, weight)
    check_table("embedding", weight)
    check_indices("embedding", _raw(idx), weight.shape[0])
    return ops.getitem(weight, idx)


@promote_to_float
def layer_norm(x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5) -> Array:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis, var biased."""
    check_last_axis("layer_norm", x, weight, bias)
    centered = x - derived.mean(x, axis=-1, keepdims=True)
    y = centered * ops.rsqrt(derived.mean(centered * centered, axis=-1, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@promote_to_float
def rms_norm(x: Array, weight: Array | None = None, *, eps: float = 1e-5) -> Array:
    """x / sqrt(mean(x**2) + eps) * weight over the last axis."""
    check_last_axis("rms_norm", x, weight)
    y = x * ops.rsqrt(derived.mean(x * x, axis=-1, keepdims=True) + eps)
    return y if weight is None else y * weight


def dropout(x: Array, p: float = 0.5, training: bool = True, generator: Generator | None = None) -> Array:
    """Each element is 0 with probability `p`, otherwise scaled by 1 / (1 - p); nothing happens unless `training`."""
    check_probability("dropout", p)
    if not training or p == 0:
        return x
    return apply_dropout_mask(x, keep_mask(x, x.shape, p, generator), p=p)


@promote_to_float
def apply_dropout_mask(x: Array, keep: Array, *, p: float) -> Array:
    """x / (1 - p) where `keep`, otherwise 0: dropout once its mask is drawn."""
    return ops.where(keep, x * (1 / (1 - p) if p < 1 else 0.0), 0)


def keep_mask(x: Array, shape: tuple[int, ...], p: float, generator: Generator | None) -> Array:
    """A random mask on the device of `x`: True where an element survives a dropout of `p`."""
    keep = stream(generator).bernoulli_keep(p, shape)
    return keep if isinstance(_raw(x), type(keep)) else xp(_raw(x)).asarray(keep)


@promote_to_float
def normalize(x: Array, axis: int = -1, ord: float = 2, eps: float = 1e-12) -> Array:
    """x / max(norm(x), eps) along `axis`."""
    return x / ops.maximum(derived.norm(x, axis, True, ord), eps)


@promote_to_float
def cosine_similarity(x: Array, y: Array, axis: int = -1, eps: float = 1e-8) -> Array:
    """sum(x y) / (max(|x|, eps) max(|y|, eps)) along `axis`."""
    scale = ops.maximum(derived.norm(x, axis), eps) * ops.maximum(derived.norm(y, axis), eps)
    return ops.sum(x * y, axis=axis) / scale


def one_hot(idx: Array, num_classes: int | None = None) -> Array:
    """1 at the place idx of a new last axis, 0 elsewhere: integers (...) -> (..., num_classes)."""
    idx = _raw(idx) if is_array(idx) else integers("one_hot", idx)
    if num_classes is None:
        num_classes = int(idx.max()) + 1 if idx.size else 0
    check_indices("one_hot", idx, num_classes)
    return (xp(idx).arange(num_classes) == idx[..., None]).astype(int64)


# ----- attention --------------------------------------------------------------------------------------------------


def scaled_dot_product_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
    generator: Generator | None = None,
) -> Array:
    """softmax(q k^T * scale) v: q (..., T, D), k (..., S, D), v (..., S, E) -> (..., T, E)."""
    check_attention(q, k, v)
    keep = keep_mask(q, (*q.shape[:-1], k.shape[-2]), dropout_p, generator) if dropout_p else None
    return attention(q, k, v, keep, mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)


@promote_to_float
def attention(
    q: Array,
    k: Array,
    v: Array,
    keep: Array | None = None,
    mask: Array | None = None,
    *,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Array:
    """scaled_dot_product_attention once its dropout mask `keep` is drawn: a function of its arguments alone."""
    check_mask("scaled_dot_product_attention", mask)
    scores = ops.matmul(q, k.swapaxes(-1, -2)) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    allowed = causal_mask(_raw(q), q.shape[-2], k.shape[-2]) if is_causal else None
    if mask is not None and mask.dtype == bool:
        allowed = _raw(mask) if allowed is None else allowed & _raw(mask)
    elif mask is not None:
        scores = scores + mask
    if allowed is not None:
        scores = ops.where(allowed, scores, -math.inf)
    weights = _attention_weights(scores)
    if keep is not None:
        weights = ops.where(keep, weights * (1 / (1 - dropout_p) if dropout_p < 1 else 0.0), 0)
    return ops.matmul(weights, v)


def _attention_weights(scores: Array) -> Array:
    """softmax over the last axis, and 0 throughout in a row that may attend to nothing: all of its scores are -inf."""
    shift: Array = 0
    if scores.shape[-1]:
        top = ops.detach(scores).max(axis=-1, keepdims=True)
        shift = ops.where(top == -math.inf, 0, top)
    e = ops.exp(scores - shift)
    total = e.sum(axis=-1, keepdims=True)
    return e / ops.where(total == 0, 1, total)


def multi_head_attention(
    qkv: Array, n_head: int, *, is_causal: bool = False, dropout_p: float = 0.0, generator: Generator | None = None
) -> Array:
    """Attention within each of `n_head` heads: (B, T, 3 C) -> (B, T, C)."""
    check_heads(qkv, n_head)
    keep = keep_mask(qkv, (len(qkv), n_head, *[qkv.shape[1]] * 2), dropout_p, generator) if dropout_p else None
    return heads_attention(qkv, keep, n_head=n_head, is_causal=is_causal, dropout_p=dropout_p)


def heads_attention(
    qkv: Array, keep: Array | None = None, *, n_head: int, is_causal: bool = False, dropout_p: float = 0.0
) -> Array:
    """multi_head_attention once its dropout mask `keep` (B, n_head, T, T) is drawn."""
    q, k, v = split_heads(qkv, n_head)
    return join_heads(attention(q, k, v, keep, is_causal=is_causal, dropout_p=dropout_p))


def split_heads(qkv: Array, n_head: int) -> tuple[Array, Array, Array]:
    """(B, T, 3 C) -> queries, keys and values, (B, n_head, T, D) each."""
    parts = qkv.reshape((*qkv.shape[:2], 3, n_head, qkv.shape[2] // (3 * n_head)))  # (B, T, 3, H, D)
    q, k, v = [parts[:, :, i].swapaxes(1, 2) for i in range(3)]
    return q, k, v


def join_heads(x: Array) -> Array:
    """(B, H, T, D) -> (B, T, H * D)"""
    B, H, T, D = x.shape
    return x.swapaxes(1, 2).reshape((B, T, H * D))  # (B, T, H, D) -> (B, T, C)


def causal_mask(x: Array, T: int, S: int) -> Array:
    """(T, S) booleans on the device of the array `x`: position t of the last T of S may see position s."""
    return xp(x).arange(S)[None, :] <= xp(x).arange(S - T, S)[:, None]


# ----- losses -----------------------------------------------------------------------------------------------------


@promote_to_float
def mse_loss(x: Array, y: Array, reduction: str = "mean") -> Array:
    """The mean of (x - y)**2."""
    check_same_shape("mse_loss", x, y)
    check_reduction("mse_loss", reduction)
    return _reduce(ops.square(x - y), reduction)


@promote_to_float
def binary_cross_entropy_with_logits(
    logits: Array, targets: Array, reduction: str = "mean", pos_weight: Array | None = None
) -> Array:
    """-(t log p + (1 - t) log(1 - p)) with p = sigmoid(logits): log p = -softplus(-x), log(1 - p) = -softplus(x)."""
    check_same_shape("binary_cross_entropy_with_logits", logits, targets)
    check_reduction("binary_cross_entropy_with_logits", reduction)
    positive = targets * ops.softplus(-logits)
    positive = positive if pos_weight is None else positive * pos_weight
    return _reduce(positive + (1 - targets) * ops.softplus(logits), reduction)


@promote_to_float
def kl_div(log_q: Array, p: Array, reduction: str = "mean", log_target: bool = False) -> Array:
    """p (log p - log q), and 0 where p is 0."""
    check_same_shape("kl_div", log_q, p)
    if reduction != "batchmean":
        check_reduction("kl_div", reduction)
    if log_target:
        losses = ops.exp(p) * (p - log_q)
    else:
        some = p != 0  # p log p is 0 at 0; a negative p gives nan
        losses = p * (ops.log(ops.where(some, p, 1)) - ops.where(some, log_q, 0))
    return losses.sum() / len(losses) if reduction == "batchmean" else _reduce(losses, reduction)


@promote_narrow
def nll_loss(
    log_p: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Array | None = None,
) -> Array:
    """-log_p[target], averaged: cross_entropy once log_softmax is computed."""
    targets = _as_indices("nll_loss", targets, log_p)
    check_nll_loss(log_p.shape, _raw(targets), ignore_index, reduction, weight)
    losses, scale, _ = _nll(log_p, targets, ignore_index, weight)
    return losses.sum() / scale.sum() if reduction == "mean" else _reduce(losses, reduction)


def _nll(log_p: Array, targets: Array, ignore_index: int, weight: Array | None) -> tuple[Array, Array, Array]:
    """-log_p[target] times the weight of the target, that weight, and whether the target counts, for each target."""
    valid = targets != ignore_index
    index = ops.where(valid, targets, 0)
    picked = ops.take_along_axis(log_p, ops.expand_dims(index, -1), -1).reshape(targets.shape)
    scale = valid.astype(log_p.dtype) if weight is None else ops.where(valid, weight[index], 0)
    return ops.where(valid, -picked if weight is None else -picked * scale, 0), scale, valid


@promote_narrow
def cross_entropy(
    logits: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    weight: Array | None = None,
) -> Array:
    """-log softmax(logits)[target], averaged."""
    C, targets = logits.shape[-1], _as_indices("cross_entropy", targets, logits)
    check_cross_entropy(logits.shape, _raw(targets), ignore_index, reduction, label_smoothing, weight)
    log_p = log_softmax(logits)
    if is_floating(targets.dtype):
        smooth = targets * (1 - label_smoothing) + label_smoothing / C if label_smoothing else targets
        smooth = smooth if weight is None else smooth * weight
        # a class of probability 0 costs nothing, even if its logit is -inf
        log_p = ops.where((smooth == 0) & (log_p == -math.inf), 0, log_p)
        return _reduce(-ops.sum(smooth * log_p, axis=-1), reduction)
    losses, scale, valid = _nll(log_p, targets, ignore_index, weight)
    if label_smoothing:
        every = log_p.sum(axis=-1) if weight is None else (log_p * weight).sum(axis=-1)
        losses = losses * (1 - label_smoothing) - ops.where(valid, every, 0) * (label_smoothing / C)
    return losses.sum() / scale.sum() if reduction == "mean" else _reduce(losses, reduction)


@promote_narrow
def linear_cross_entropy(
    x: Array, weight: Array, targets: Array, *, ignore_index: int = -100, reduction: str = "mean"
) -> Array:
    """The cross-entropy of the logits x W^T, a model's head and its loss in one: x (..., C), weight (V, C)."""
    return cross_entropy(linear(x, weight), targets, ignore_index=ignore_index, reduction=reduction)


def _reduce(losses: Array, reduction: str) -> Array:
    return losses.mean() if reduction == "mean" else losses.sum() if reduction == "sum" else losses


# ----- arguments --------------------------------------------------------------------------------------------------


def _raw(x: Array) -> Array:
    """The array of a Tensor; an array as it is."""
    return x.data if isinstance(x, Variable) else x


def _as_indices(name: str, idx: Array, like: Array) -> Array:
    """A nested list of integers as an array on the device of `like`; an array or a Tensor as it is."""
    if is_array(idx):
        return idx
    return xp(_raw(like)).asarray(integers(name, idx))
